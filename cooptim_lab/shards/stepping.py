"""One rank's training step: its part of a batch through its copy of the network, and what the aggregator makes of it.

Knows neither epochs nor clocks: `program` counts steps, `trial` takes some that do not count.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..comm.context import Context
from ..comm.timeline import Timeline
from ..comm.waiting import complete
from ..errors import InputError
from ..task import Task
from ..training.prepare import build_model, build_optimizer
from ..training.spec import Sharded, read_compress
from .aggregate import Aggregator, Replica, Settings, make_aggregator
from .aggregate.base import Outcome
from .aggregate.synchronous import AllReduce
from .batchnorm import SHARED, absent, normalising, share_batchnorm
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
        self._model, self._rows, self._loss = replica.model, shard.rows, shard.loss
        self._per_epoch = shard.per_epoch
        self._shares = normalises == SHARED

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
        loss: Callable[[], Tensor] | None = None
        if len(part.rows):
            loss = lambda: self._of_rows(part)  # noqa: E731 - every microsecond of a step counts
        elif self._shares:
            loss = self._of_none
        try:
            return self.aggregator.step(loss, part.weight, stop)
        except InputError as error:
            raise InputError(f"in epoch {self.done // self._per_epoch + 1}: {error}") from error

    def _of_rows(self, part: SharedBatch) -> Tensor:
        x, y = self._rows.take(part.rows)
        return self._loss(self._model(x), y)

    def _of_none(self) -> Tensor:
        """The others' BatchNorm waits for this rank, though it has no rows."""
        with absent(self._model):
            return self._model(self._rows.take(FIRST)[0]).sum() * 0


def build_step(context: Context, task: Task, shard: Shard, timeline: Timeline, buckets: int = 1) -> ShardStep:
    """A fresh network on every rank, the same; an optimizer; what aggregates. Collective.

    `buckets` are the calls in which `allreduce` sends a gradient: fewer, where its parameters are fewer.
    """
    spec, comm = shard.spec, context.comm
    model = build_model(task.model, spec.seed)
    how = normalising(model, spec, context.size)
    if how == SHARED:
        model = share_batchnorm(model, comm)
    replica = Replica(model, lambda parameters: build_optimizer(task.optimizer, list(parameters)))
    weights = replica.weights.numpy()
    complete(comm.Ibcast(weights, root=0), weights)  # an initialisation may not go by torch's seed
    aggregator = make_aggregator(spec.aggregate, comm, replica, settings_of(spec, replica), timeline)
    if isinstance(aggregator, AllReduce):
        aggregator.use_buckets(buckets)
    return ShardStep(shard, replica, aggregator, how)


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
