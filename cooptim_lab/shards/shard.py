"""What one rank was dealt of a task: its rows, its part of every batch, its part of the held-out rows.

What is done with them is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..comm.context import Context
from ..comm.objects import agreed, allgather, bcast, gather
from ..data.holding import hold_out
from ..data.rows import Rows, keep, open_rows, what_draws
from ..errors import InputError
from ..preparing.building import build_model, on_trial, packed, unpacked
from ..preparing.examination import Examined, examine, undisturbed
from ..preparing.examination.apart import ROWS, Apart, see_apart
from ..preparing.examination.learning import refuse_modes, refuse_what_lies_flat
from ..preparing.examination.parts import looked_at, see_parts, unusual
from ..preparing.examination.sizes import Smallest, smallest_batch
from ..preparing.held_out import HeldOut
from ..preparing.hooks import refuse_hooks
from ..preparing.modes import put
from ..preparing.reduction import Reduction
from ..preparing.scoring import Loss, is_torchs_classes, loss_of
from ..preparing.seeds import seed_all
from ..task import Task
from ..training.spec import Sharded
from .batchnorm import ALONE, AS_IT_IS, normalises_by_batch, normalising
from .deal import Deal, SharedBatch, deal, shard_batches

FIRST = torch.zeros(1, dtype=torch.int64)
"""Of row 0, which every shard has."""
ON_A_RANK = (
    "would be called with each rank's part of it: bound its norm by clip, let a hook of a layer "
    "(register_full_backward_hook) change what rows pass back, or give one worker"
)
"""What speaks against hooks on gradients: a linear one would be right, but not one that bounds, and nobody can tell."""
LEAST_UNUSUAL, MOST_UNUSUAL, MOST_OUTPUTS = 16, 96, 1 << 20
"""Rows that each rank brings to see whether parts make the whole; of all ranks; numbers of their outputs, of a rank."""


@dataclass(frozen=True)
class Shard:
    """One rank's part of a task, and how much the others have."""

    rank: int
    spec: Sharded
    network: bytes
    """The network that all ranks start from, rank 0's, with all that belongs to it (see `building.packed`)."""
    rows: Rows
    deal: Deal
    held: HeldOut
    loss: Loss
    examined: Examined
    normalises: str
    """How BatchNorm does (see `batchnorm.normalising`)."""
    apart: Apart
    """What is another for the ranks' parts of a batch than for the whole."""

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return math.ceil(sum(self.deal.sizes) / self.spec.batch)

    def batches(self, epoch: int) -> Sequence[SharedBatch]:
        """This rank's part of every batch of an epoch."""
        return shard_batches(self.deal.sizes, self.rank, self.spec.batch, self.spec.seed, epoch)


def open_shard(context: Context, task: Task, spec: Sharded) -> Shard:
    """Deal the rows; read this rank's, and its part of the held-out ones; see that all fit the network. Collective.

    Raises
    ------
    InputError
        On all ranks, when one has something to complain of, or ranks have not the same data.
    """
    comm = context.comm
    network = bcast(comm, agreed(comm, lambda: _build(task, spec) if context.is_root else b""))
    shard, labels = agreed(comm, lambda: _read(context, task, spec, network))
    dealt, *others = allgather(comm, shard.deal.sizes)
    for rank, sizes in enumerate(others, 1):
        if sizes != dealt:
            raise InputError(
                f"the data is not the same on every rank: {sum(dealt)} rows to train on on rank 0, {sum(sizes)} on "
                f"rank {rank}, dealt as {dealt} and {sizes}"
            )
    every = torch.cat(allgather(comm, labels)).unique()
    examined = agreed(comm, lambda: _examine(context, task, shard, every))
    # What outputs mean, and the loss divides by, is the same for all: what rank 0 has found.
    first = bcast(comm, examined)
    lines = (*shard.examined.findings, *first.findings, *_see_parts(context, task, shard, first.reduction))
    normalises = bcast(comm, normalising(_is_normalised(shard), spec, context.size))
    differs = _see_apart(context, task, shard)
    shard.held.meaning, shard.held.reduction = first.meaning, first.reduction
    shard.held.is_scored_together = differs.is_scored_together
    examined = replace(first, findings=lines)
    return replace(shard, examined=examined, normalises=normalises, apart=differs)


def _build(task: Task, spec: Sharded) -> bytes:
    return packed("the model", build_model(task.model, spec.seed))


def _read(context: Context, task: Task, spec: Sharded, network: bytes) -> tuple[Shard, Tensor]:
    """The shard, and the labels that it and its held-out rows have."""
    model = unpacked(network)
    seed_all(task.seed)
    every = open_rows(task, model)
    trained, held = hold_out(len(every), task.held_out, task.seed)
    labels = every.labels() if spec.deals_by_class else None
    dealt = deal(trained, context.size, context.rank, spec.shards, spec.seed, labels, spec.skew)
    rows = keep(every, dealt.rows)
    held_out = HeldOut(task, every, held, context.comm)
    loss = loss_of(task, rows.take(FIRST)[1])
    fits = Examined.nothing(what_draws(every) if context.is_root else [])
    return Shard(context.rank, spec, network, rows, dealt, held_out, loss, fits, AS_IT_IS, Apart()), held_out.labels(
        rows
    )


def _examine(context: Context, task: Task, shard: Shard, labels: Tensor) -> Examined:
    spec, rows = shard.spec, shard.rows
    model = put(unpacked(shard.network), training=True)
    if context.size > 1:
        refuse_hooks(model, ON_A_RANK)
    shard.held.check(put(unpacked(shard.network), training=True))
    smallest = smallest_batch(sum(shard.deal.sizes), spec.batch)
    if normalising(_is_normalised(shard), spec, context.size) == ALONE:
        smallest = _smallest_part(shard.deal, spec, context.rank)
    part = max(2, math.ceil(spec.batch / context.size), smallest.rows)
    x, y = rows.take(torch.arange(min(part, len(rows))))
    examined = examine(task, model, x, y, labels, smallest)
    refuse_what_lies_flat(examined.learned, "sharded")
    refuse_modes(examined.learned, "sharded")
    return examined


def _see_apart(context: Context, task: Task, shard: Shard) -> Apart:
    """What any rank sees to be another for parts of a batch, by its own rows. Collective."""
    model = put(unpacked(shard.network), training=True)
    with undisturbed(), torch.enable_grad():
        found = see_apart(
            model,
            on_trial(task, ("loss",)).loss or shard.loss,
            *shard.rows.take(torch.arange(min(ROWS, len(shard.rows)))),
        )
    every = allgather(context.comm, found)
    names = dict.fromkeys(name for each in every for name in each.training)
    together, untold = (any(of) for of in zip(*((e.is_scored_together, e.is_untold) for e in every), strict=True))
    return Apart(tuple(names), together, untold)


def _see_parts(context: Context, task: Task, shard: Shard, reduction: Reduction) -> list[str]:
    """See that a loss of the user's own divides by what rank 0 has found, by unusual rows of all ranks. Collective.

    Refused where every step is one of all ranks; where each takes its own, by its own loss, it is said.
    """
    comm = context.comm
    if context.size == 1 or task.loss is None or is_torchs_classes(task.loss):
        return []
    every = gather(comm, agreed(comm, lambda: _unusual(context, shard)))

    def see() -> list[str]:
        loss = on_trial(task, ("loss",)).loss
        if every is None or loss is None:
            return []
        try:
            with undisturbed():
                see_parts(reduction, loss, *(torch.cat(of) for of in zip(*every, strict=True)))
        except InputError as error:
            if shard.spec.is_synchronous:
                raise
            return [str(error)]
        return []

    return agreed(comm, see)


def _unusual(context: Context, shard: Shard) -> tuple[Tensor, Tensor]:
    """What the network gives for some unusual rows of this rank's, and their y."""
    rows, network = shard.rows, put(unpacked(shard.network), training=False)
    looked = looked_at(len(rows), rows.targets(FIRST).numel())
    with undisturbed(), torch.no_grad():
        outputs = network(rows.take(FIRST)[0]).numel()
        most = max(LEAST_UNUSUAL, min(MOST_UNUSUAL // context.size, MOST_OUTPUTS // max(1, outputs)))
        x, y = rows.take(looked[unusual(rows.targets(looked), most)])
        part = math.ceil(shard.spec.batch / context.size)
        return torch.cat([network(piece.clone()) for piece in x.split(part)]), y


def _is_normalised(shard: Shard) -> bool:
    model = put(unpacked(shard.network), training=True)
    with undisturbed():
        return normalises_by_batch(model, shard.rows.take(torch.arange(min(4, len(shard.rows))))[0])


def _smallest_part(dealt: Deal, spec: Sharded, rank: int) -> Smallest:
    """Where every rank normalises by itself: what it brings to a batch, of all batches of an epoch."""
    parts = [len(part.rows) for part in shard_batches(dealt.sizes, rank, spec.batch, spec.seed, 0)]
    least = min(part for part in parts if part)
    ranks = len(dealt.sizes)
    what = f"rank {rank}'s part of batch {parts.index(least) + 1} of an epoch has {least} (batches of {spec.batch})"
    return Smallest(least, what, f"give another batch size, or fewer workers than {ranks}")
