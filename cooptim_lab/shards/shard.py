"""What one rank was dealt of a task: its rows, its part of every batch, its part of the held-out rows.

What is done with them is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..comm.context import Context
from ..comm.objects import agree, allgather
from ..data.holding import hold_out
from ..data.rows import Rows, keep, open_rows
from ..errors import InputError
from ..task import Task
from ..training.examination.sizes import Smallest, check_smallest, smallest_batch
from ..training.held_out import HeldOut
from ..training.prepare import loss_of
from ..training.spec import Sharded
from .batchnorm import ALONE, normalising
from .checkpoint import check_same, signature
from .deal import Deal, SharedBatch, deal, shard_batches

FIRST = torch.zeros(1, dtype=torch.int64)
"""Of row 0, which every shard has."""


@dataclass(frozen=True)
class Shard:
    """One rank's part of a task, and how much the others have."""

    rank: int
    spec: Sharded
    rows: Rows
    deal: Deal
    held: HeldOut
    loss: Callable[[Tensor, Tensor], Tensor]

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return math.ceil(sum(self.deal.sizes) / self.spec.batch)

    def batches(self, epoch: int) -> Sequence[SharedBatch]:
        """This rank's part of every batch of an epoch."""
        return shard_batches(self.deal.sizes, self.rank, self.spec.batch, self.spec.seed, epoch)


def open_shard(context: Context, task: Task, spec: Sharded, model: nn.Module) -> Shard:
    """Deal the rows; read this rank's, and its part of the held-out ones; see that all fit `model`. Collective.

    Raises
    ------
    InputError
        On all ranks, when one has something to complain of, or ranks have not the same model and data.
    """
    try:
        shard = _read(context, task, spec, model)
    except InputError as error:
        agree(context.comm, error)  # raises
        raise
    agree(context.comm, None)
    (first, dealt), *others = allgather(context.comm, (signature(model), shard.deal.sizes))
    for rank, (theirs, sizes) in enumerate(others, 1):
        check_same(theirs, first, f"model() gives another network on rank {rank} than on rank 0")
        if sizes != dealt:
            raise InputError(
                f"the data is not the same on every rank: {sum(dealt)} rows to train on on rank 0, {sum(sizes)} on "
                f"rank {rank}, dealt as {dealt} and {sizes}"
            )
    return shard


def _read(context: Context, task: Task, spec: Sharded, model: nn.Module) -> Shard:
    every = open_rows(task, model)
    trained, held = hold_out(len(every), task.held_out, task.seed)
    labels = every.labels() if spec.deals_by_class else None
    dealt = deal(trained, context.size, context.rank, spec.shards, spec.seed, labels, spec.skew)
    rows = keep(every, dealt.rows)
    held_out = HeldOut(task, every, held, context.comm)
    loss = loss_of(task, rows.take(FIRST)[1])
    held_out.check(model, rows)
    batch = smallest_batch(len(trained), spec.batch)
    if normalising(model, spec, context.size) == ALONE:
        batch = _smallest_part(dealt, spec, context.rank)
    check_smallest(model, loss, *rows.take(torch.arange(min(batch.rows, len(rows)))), batch)
    return Shard(context.rank, spec, rows, dealt, held_out, loss)


def _smallest_part(dealt: Deal, spec: Sharded, rank: int) -> Smallest:
    """Where every rank normalises by itself: what it brings to a batch, of all batches of an epoch."""
    parts = [len(part.rows) for part in shard_batches(dealt.sizes, rank, spec.batch, spec.seed, 0)]
    least = min(part for part in parts if part)
    ranks = len(dealt.sizes)
    what = f"rank {rank}'s part of batch {parts.index(least) + 1} of an epoch has {least} (batches of {spec.batch})"
    return Smallest(least, what, f"give another batch size, or fewer workers than {ranks}")
