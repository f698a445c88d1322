"""One rank's training step: its part of a batch through its copy of the network, and what the aggregator makes of it.

Knows neither epochs nor clocks: `program` counts steps, `trial` takes some that do not count.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..comm.context import Context
from ..comm.objects import allgather
from ..comm.timeline import Timeline
from ..errors import InputError
from ..preparing.building import unpacked
from ..preparing.modes import put
from ..preparing.reduction import MEAN, SUM
from ..task import Task
from ..training.spec import Sharded, read_compress
from .aggregate import Aggregator, Replica, Settings, make_aggregator, make_place
from .aggregate.base import Outcome
from .aggregate.synchronous import AllReduce
from .batchnorm import SHARED, OverRanks
from .compression import make_compression
from .deal import SharedBatch
from .shard import FIRST, Shard


class ShardStep:
    """What a rank does with its part of a batch, together with the others.

    Attributes
    ----------
    replica
        The rank's copy of the network.
    aggregator
        Makes the ranks' gradients, or weights, one.
    done
        Steps that count, so far: kept by who trains.
    """

    def __init__(self, shard: Shard, replica: Replica, aggregator: Aggregator, normalises: str) -> None:
        self.replica, self.aggregator, self.done = replica, aggregator, 0
        self._comm, self._reduction = aggregator.comm, shard.examined.reduction
        self._is_synchronous = shard.spec.is_synchronous
        self._model, self._rows, self._loss = replica.model, shard.rows, shard.loss
        self._per_epoch = shard.per_epoch
        self._over_ranks = OverRanks(aggregator.comm) if normalises == SHARED else None
        if self._over_ranks is not None:
            replica.within = self._over_ranks

    def take(self, part: SharedBatch, stop: bool = False) -> Outcome:
        """One step. Collective, where the aggregator meets at every step.

        Parameters
        ----------
        part
            This rank's rows of the batch; may be empty.
        stop
            Whether this rank wishes to stop after it.

        Raises
        ------
        InputError
            When a loss is not finite: in which epoch, and on which rank.
        """
        try:
            if self._reduction.kind == MEAN:
                return self.aggregator.step(self._loss_of(part), part.weight, stop)
            return self._take_weighted(part, stop)
        except InputError as error:
            raise InputError(f"in epoch {self.done // self._per_epoch + 1}: {error}") from error

    def _loss_of(self, part: SharedBatch) -> Callable[[], Tensor] | None:
        if part.rows.numel():  # less than half the time of len(): every microsecond of a step counts
            return lambda: self._of_rows(part)
        if self._over_ranks is not None:
            return self._of_none
        if self._is_synchronous:
            self._count_none()
        return None

    def _take_weighted(self, part: SharedBatch, stop: bool) -> Outcome:
        """A step by a loss that divides by something else than the rows (see `reduction`)."""
        mine = self._reduction.weight(self._rows.take(part.rows)[1]) if len(part.rows) else 0.0
        if not self._is_synchronous:  # each rank's steps are its own
            return self.aggregator.step(self._loss_of(part) if mine else None, part.weight, stop)
        whole = 1.0 if self._reduction.kind == SUM else sum(allgather(self._comm, mine))
        if mine == 0 < whole and len(part.rows):  # all its labels are ignored: the loss has no value, its rows count
            return self.aggregator.step(lambda: self._outputs(part)[0].sum() * 0, 0.0, stop)
        return self.aggregator.step(self._loss_of(part), mine / whole if whole else part.weight, stop)

    def _of_rows(self, part: SharedBatch) -> Tensor:
        if self._over_ranks is None:
            x, y = self._rows.take(part.rows)
            return self._loss(self._model(x), y)
        return self._loss(*self._outputs(part))

    def _outputs(self, part: SharedBatch) -> tuple[Tensor, Tensor]:
        x, y = self._rows.take(part.rows)
        if self._over_ranks is None:
            return self._model(x), y
        return self._over_ranks.forward(lambda: self._model(x)), y

    def _of_none(self) -> Tensor:
        """The others' BatchNorm waits for this rank, though it has no rows."""
        assert self._over_ranks is not None
        x = self._rows.take(FIRST)[0]
        self.replica.touch_none()
        return self._over_ranks.forward(lambda: self._model(x), is_present=False).sum() * 0

    def _count_none(self) -> None:
        """What the network counts by itself goes on with the others', though it has no rows: as in one process."""
        with torch.no_grad():
            self._model(self._rows.take(FIRST)[0])


def build_step(
    context: Context, task: Task, shard: Shard, timeline: Timeline, buckets: int = 1, *, is_trial: bool = False
) -> ShardStep:
    """A fresh network on every rank, the same; an optimizer; what aggregates. Collective.

    `buckets` are the calls in which `allreduce` sends a gradient: fewer, where its parameters are fewer. A trial may
    make more steps than the training.
    """
    spec, comm = shard.spec, context.comm
    model = put(unpacked(shard.network), training=True)
    tells = spec.compress != "none" or not isinstance(spec.aggregate, str)
    place = make_place(spec.aggregate, comm, timeline)
    steps = spec.epochs * shard.per_epoch
    replica = Replica(model, task, steps, place=place, tells=tells, is_trial=is_trial)
    aggregator = make_aggregator(spec.aggregate, comm, replica, settings_of(spec, replica), timeline)
    if isinstance(aggregator, AllReduce):
        aggregator.use_buckets(buckets)
    return ShardStep(shard, replica, aggregator, shard.normalises)


def settings_of(spec: Sharded, replica: Replica) -> Settings:
    """What the ways to aggregate can be told."""
    shapes = [p.shape for p in replica.parameters]
    return Settings(
        sync_every=spec.sync_every,
        staleness=spec.staleness,
        outer_lr=spec.outer_lr,
        outer_momentum=spec.outer_momentum,
        compression=make_compression(*read_compress(spec.compress), shapes, spec.seed),
    )
