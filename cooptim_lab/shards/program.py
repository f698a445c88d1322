"""The program of the way `sharded`: min_w 1/M Σ L(θ_i, y_i), the rows dealt over M ranks, the same network on each."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import replace

import torch

from ..comm.context import Context
from ..comm.objects import allgather, barrier
from ..comm.timeline import Timeline
from ..hardware.heap import give_back_free
from ..preparing.seeds import derive, seed_all
from ..runs.result import Result
from ..task import Task
from ..training.loop import Clock, fit
from ..training.reporting import make_recorder, make_result, record_score, tell_findings
from ..training.spec import Sharded
from .aggregate.shared import Posted
from .aggregate.synchronous import AllReduce, Synchronous
from .batchnorm import average_buffers
from .deal import SharedBatch
from .keeping import Keeping
from .saving import Saving
from .shard import Shard, open_shard
from .stepping import ShardStep, build_step
from .telling import breakdown, tell_how_it_normalises, tell_times, tell_what_differs, tell_what_meets
from .trial import warm_up

TRAINING = "training loss"
LARGE = 1 << 22
"""Bytes of a network from which on what its trials have left free is given back before it is trained."""


def train_sharded(context: Context, task: Task, spec: Sharded, keeping: Keeping | None = None) -> Result | None:
    """The rows dealt over the ranks; the same network on each; what they learn aggregated as `spec.aggregate` says."""
    if spec.aggregate == "ordered":
        torch.set_num_threads(1)
    shard = open_shard(context, task, spec)
    tell_findings(context, shard.examined.findings)
    tell_how_it_normalises(context, shard.normalises)
    tell_what_meets(context, shard.apart)
    buckets = warm_up(context, task, shard)
    timeline = Timeline(context.comm)
    step = build_step(context, task, shard, timeline, buckets)
    if len(shard.network) > LARGE:
        give_back_free()
    shard = replace(shard, network=b"")  # it is built
    result = _Training(context, task, shard, step, timeline, keeping).run()
    step.aggregator.close()
    return result


class _Training:
    """From the first step, or from where a checkpoint is, to the result."""

    def __init__(
        self,
        context: Context,
        task: Task,
        shard: Shard,
        step: ShardStep,
        timeline: Timeline,
        keeping: Keeping | None,
    ) -> None:
        self.context, self.task, self.shard, self.timeline = context, task, shard, timeline
        self.spec, self.model, self.aggregator = shard.spec, step.replica.model, step.aggregator
        self.clock = Clock()
        self.saving = Saving(context, shard, step, keeping, self.clock)
        self.shard_step, self._agreed_to_stop = step, False

    def run(self) -> Result | None:
        """Train, settle, score; the result on rank 0. Collective."""
        context, spec = self.context, self.spec
        seed_all(derive(spec.seed, context.rank))
        done = self.shard_step.done = self.saving.resume()
        rows = sum(self.shard.deal.sizes)
        self.recorder = make_recorder(context, [TRAINING], rows, spec, muted=not context.is_root, done=done)
        barrier(context.comm)
        self.clock.resume()
        self.timeline.restart()
        finished = fit(
            self.step,
            self.shard.batches,
            spec.epochs,
            recorder=self.recorder,
            clock=self.clock,
            stopping=lambda: self._agreed_to_stop,
            end_epoch=self._end_epoch,
            start=divmod(done, self.shard.per_epoch),
        )
        if not finished:
            self._save()
        self.recorder.add(self.aggregator.settle())
        self.recorder.flush()
        seconds = max(allgather(context.comm, self.clock.stop()))
        tell_times(context.report, self.timeline.share(), self.aggregator.staleness)
        return self._result(seconds, finished)

    def step(self, part: SharedBatch) -> Sequence[float]:
        """One step of this rank, with the others as the aggregator has it; the losses that became known with it."""
        losses, self._agreed_to_stop, shares = self.shard_step.take(part, self.context.stopping())
        self.shard_step.done += 1
        if shares:
            tell_times(self.recorder.say, self.timeline.share(), self.aggregator.staleness)
        elif self.aggregator.tells_alone and self.timeline.is_due:
            tell_times(self.context.report, [self.timeline.tell()], self.aggregator.staleness)
        if self.saving.is_due(self.shard_step.done):
            self._save()
        return losses

    def _save(self) -> None:
        with self.clock.paused(), self.timeline.paused():
            if self.saving.can_save():
                self.recorder.flush()
                self.saving.save(self.shard_step.done)

    def _end_epoch(self, epoch: int) -> bool:
        with self.timeline.paused(), self.aggregator.whole():
            kept = [b.clone() for b in self.model.buffers()]
            average_buffers(self.model, self.context.comm)
            score = self.shard.held.score(self.model)
            with torch.no_grad():
                for buffer, own in zip(self.model.buffers(), kept, strict=True):
                    buffer.copy_(own)
            if score is not None:
                record_score(self.recorder, epoch, score)
            # A rank whose way does not meet at every step may have heard of the wish alone.
            ends = self._agreed_to_stop or self._wishes_to_stop()
            told = allgather(self.context.comm, (ends, self.recorder.has_reached))
            self.recorder.has_reached = any(reached for _, reached in told)
            agreed = self.recorder.has_reached or any(wishes for wishes, _ in told)
            barrier(self.context.comm)  # one that slept, waiting for rank 0's score, is awake when the clock goes on
            return agreed

    def _wishes_to_stop(self) -> bool:
        return self.context.stopping() and not isinstance(self.aggregator, Synchronous)

    def _result(self, seconds: float, finished: bool) -> Result | None:
        spec, context = self.spec, self.context
        tell_what_differs(context, self.model)
        average_buffers(self.model, context.comm)
        network = self.shard_step.replica.release(keeps=context.is_root)
        score = self.shard.held.score(network)
        hosts = allgather(context.comm, socket.gethostname())
        if score is None:
            return None
        engine = spec.aggregate if isinstance(spec.aggregate, str) else spec.aggregate.__name__
        if isinstance(self.aggregator, AllReduce) and self.aggregator.buckets > 1:
            engine += f", {self.aggregator.buckets} buckets"
        if isinstance(self.aggregator, Posted):
            engine += ", undivided"
        return make_result(
            context, self.task, spec, network, score, seconds, self.recorder.steps, finished,
            engine=engine, breakdown=breakdown(self.timeline, hosts), staleness=self.aggregator.staleness,
            path=self.recorder.path,
        )  # fmt: skip
