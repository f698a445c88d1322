"""The training rows dealt over ranks, and the part of every batch that each rank brings.

Every rank works out by itself, from the seed, what belongs to it and what the others bring; it keeps its own rows only.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..preparing.seeds import derive
from ..training.cutting import shard

DEALS = ("order", "shuffle", "stratify")
"""The ways of dealing rows to shards, see `deal`."""
DEALING = 0x6465616C
"""Of the seed of a deal: no other place that draws has this number ("deal" in ASCII)."""


@dataclass(frozen=True)
class Deal:
    """What one shard was dealt, and how many rows each of them was."""

    rows: Tensor
    """Its own row numbers, int32, ascending."""
    sizes: tuple[int, ...]
    """Of all shards."""


def deal(
    rows: Tensor,
    shards: int,
    which: int,
    how: str,
    seed: int,
    labels: np.ndarray | None = None,
    skew: float = 0.0,
) -> Deal:
    """The rows of shard `which` of `shards`. All shards together have every row once.

    Parameters
    ----------
    rows
        The numbers of the rows to train on, int32, 1-d, ascending.
    how
        "order": consecutive rows. "shuffle": at random. "stratify": at random, and every class in the same proportion
        in every shard: the counts of a class differ by one at most. In all of them the shards' sizes differ by one at
        most, the larger ones first.
    labels
        The class of every row, by its number: of all the data's rows, as `Rows.labels` gives them.
    skew
        More than 0: every class is split over the shards in proportions drawn from a symmetric Dirichlet distribution
        with this parameter, whatever `how` is; the sizes are what comes of it. Small values leave a class to few
        shards, large ones come close to "shuffle".

        The split is that of Yurochkin et al. 2019, "Bayesian nonparametric federated learning of neural networks". Hsu,
        Qi, Brown 2019, "Measuring the effects of non-identical data distribution for federated visual classification",
        draw the classes' proportions in a shard of given size instead; their parameter acts in the same way.

    Raises
    ------
    InputError
        When there are more shards than rows, no labels to deal by, or a shard that is left without rows.
    """
    sizes = tuple(len(shard(len(rows), shards, each)) for each in range(shards))
    if skew > 0:
        return _deal_skewed(rows, shards, which, seed, _of_rows(labels, rows, f"skew = {skew:g}"), skew)
    if how == "order":
        own = shard(len(rows), shards, which)
        return Deal(rows[own.start : own.stop].clone(), sizes)
    classes = _of_rows(labels, rows, how) if how == "stratify" else None
    order, _ = _by_class(classes, len(rows), _random(seed))
    # One class after the other, the shards in turn: neither their sizes nor their counts of a class differ by two.
    return Deal(_ascending(rows, order[which::shards]), sizes)


def _deal_skewed(rows: Tensor, shards: int, which: int, seed: int, labels: np.ndarray, skew: float) -> Deal:
    random = _random(seed)
    order, starts = _by_class(labels, len(rows), random)
    own, sizes = [], np.zeros(shards, dtype=np.int64)
    for start, end in itertools.pairwise(starts):
        parts = np.cumsum(random.dirichlet(np.full(shards, skew)))[:-1]
        cuts = [start, *(start + np.rint(parts * (end - start)).astype(np.int64)).tolist(), end]
        own.append(order[cuts[which] : cuts[which + 1]])
        sizes += np.diff(cuts)
    if not sizes.all():
        raise InputError(
            f"skew = {skew:g} leaves shard {int(sizes.argmin())} of {shards} without rows: "
            "give a larger skew, fewer workers or another seed"
        )
    return Deal(_ascending(rows, np.concatenate(own)), tuple(sizes.tolist()))


def _random(seed: int) -> np.random.Generator:
    return np.random.default_rng(derive(seed, DEALING))


def _of_rows(labels: np.ndarray | None, rows: Tensor, asked: str) -> np.ndarray:
    if labels is None:
        raise InputError(
            f"{asked} deals rows by their class, and y is not one whole number a row: leave it out, or give such labels"
        )
    return labels[rows.numpy()]


def _by_class(labels: np.ndarray | None, rows: int, random: np.random.Generator) -> tuple[np.ndarray, list[int]]:
    """The places of all rows, int32: class after class, shuffled within, and where each begins; the last is the end.

    Without labels all are one class.
    """
    if labels is None:
        order, starts = np.arange(rows, dtype=np.int32), [0, rows]
    else:
        starts = [0, *np.cumsum(np.unique(labels, return_counts=True)[1]).tolist()]
        order = np.argsort(labels, kind="stable").astype(np.int32)
    for start, end in itertools.pairwise(starts):
        random.shuffle(order[start:end])
    return order, starts


def _ascending(rows: Tensor, places: np.ndarray) -> Tensor:
    own = rows.numpy()[places]
    own.sort()  # as they lie in the data, where they are read
    return torch.from_numpy(own)


class SharedBatch(NamedTuple):
    """One shard's part of a batch that all shards share."""

    rows: Tensor
    """Indices into the shard's own rows, int32; may be empty."""
    weight: float
    """b_r / B: this part's share of the whole batch. The weights of all shards add up to 1."""


def shard_batches(sizes: Sequence[int], which: int, batch: int, seed: int, epoch: int) -> list[SharedBatch]:
    """The parts that shard `which` brings to every step of one epoch.

    `batch` counts the rows of all shards together: an epoch has ceil(rows / batch) steps of `batch` rows (the last may
    be shorter), as in one process. The places of an epoch are given to the shards in a fixed order, which uses each of
    them up exactly; so what the others bring is known without asking. Shards whose sizes differ by one at most, the
    larger ones first, take turns: the parts of a step then differ by one at most. Others are interleaved in proportion
    to their sizes. A shard fills its places with its own rows, shuffled by (seed, epoch, which).

    Parameters
    ----------
    sizes
        The rows of every shard.
    """
    generator = torch.Generator().manual_seed(derive(seed, epoch, which))
    order = torch.randperm(sizes[which], generator=generator)
    rows, shards = sum(sizes), len(sizes)
    starts = range(0, rows, batch)
    if all(size == len(shard(rows, shards, each)) for each, size in enumerate(sizes)):
        cuts = [(start - which + shards - 1) // shards for start in starts]
    else:
        cuts = np.searchsorted(_proportional_places(sizes, which), np.asarray(starts)).tolist()
    parts = []
    for start, cut, end in zip(starts, cuts, [*cuts[1:], len(order)], strict=True):
        parts.append(SharedBatch(order[cut:end], (end - cut) / min(batch, rows - start)))
    return parts


def _proportional_places(sizes: Sequence[int], which: int) -> np.ndarray:
    """The places, ascending from 0, of a shard's rows when row j of shard r stands at the time (j + 1/2) / sizes[r].

    Of those at the same time the lower shard's comes first. What stands before a row is counted shard by shard, in
    whole numbers: i is at most at the time of j when (2 i + 1) n_j <= (2 j + 1) n_i. So there is nothing to sort.
    """
    own = np.arange(sizes[which], dtype=np.int64)
    places = own.copy()
    for other, size in enumerate(sizes):
        if other != which:
            latest = (2 * own + 1) * size - (other > which)
            places += np.minimum((latest // sizes[which] + 1) // 2, size)
    return places
