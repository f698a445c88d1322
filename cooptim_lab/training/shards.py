"""The training rows spread over ranks, and the part of every batch that each rank brings."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from .seeds import derive


def shard(rows: int, shards: int, which: int) -> range:
    """The rows of shard `which`: consecutive, and the sizes differ by one at most.

    Raises
    ------
    InputError
        When there are more shards than rows.
    """
    if shards > rows:
        raise InputError(f"workers = {shards}: there are only {rows} rows to train on; give at most {rows}")
    size, more = divmod(rows, shards)
    start = which * size + min(which, more)
    return range(start, start + size + (which < more))


class SharedBatch(NamedTuple):
    """One shard's part of a batch that all shards share."""

    rows: Tensor
    """Indices into the shard's own rows; may be empty."""
    weight: float
    """b_r / B: this part's share of the whole batch. The weights of all shards add up to 1."""


def shard_batches(rows: int, shards: int, which: int, batch: int, seed: int, epoch: int) -> list[SharedBatch]:
    """The parts that shard `which` brings to every step of one epoch.

    `batch` counts the rows of all shards together: an epoch has ceil(rows / batch) steps of `batch` rows (the last may
    be shorter), as in one process. The places of an epoch go round the shards in turn, which uses each of them up
    exactly, since their sizes differ by one at most; so the parts of a step differ by one at most, and what the others
    bring is known without asking. A shard fills its places with its own rows, shuffled by (seed, epoch, which).
    """
    generator = torch.Generator().manual_seed(derive(seed, epoch, which))
    order = torch.randperm(len(shard(rows, shards, which)), generator=generator)

    def places_before(place: int) -> int:
        return (place - which + shards - 1) // shards if place > which else 0

    parts = []
    for start in range(0, rows, batch):
        end = min(start + batch, rows)
        own = order[places_before(start) : places_before(end)]
        parts.append(SharedBatch(own, len(own) / (end - start)))
    return parts
