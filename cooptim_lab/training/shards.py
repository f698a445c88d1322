"""The training rows spread over ranks, and the part of every batch that each rank brings."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import InputError
from .loop import batches


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

    `batch` counts the rows of all shards together, so an epoch has ceil(rows / batch) steps at any number of shards. A
    shard shuffles its own rows by (seed, epoch, which) and deals them evenly over the steps. What the others bring
    follows from the sizes alone, so nobody has to ask.
    """
    steps = math.ceil(rows / batch)
    own = len(shard(rows, shards, which))
    (order,) = batches(own, own, seed * 1_000_003 + which, epoch)
    everyone = [sum(_part(len(shard(rows, shards, r)), steps, k) for r in range(shards)) for k in range(steps)]
    parts = torch.tensor_split(order, steps)
    return [SharedBatch(part, len(part) / all_rows) for part, all_rows in zip(parts, everyone, strict=True)]


def _part(rows: int, steps: int, k: int) -> int:
    """How many rows `torch.tensor_split` puts into part k of `steps`."""
    return rows // steps + (k < rows % steps)
