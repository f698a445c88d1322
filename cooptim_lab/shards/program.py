"""The program of the way `sharded`: min_w 1/M Σ L(θ_i, y_i), the rows dealt over M ranks, the same network on each."""

from __future__ import annotations

import itertools
import math
import socket
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..comm.context import Context
from ..comm.objects import agree, allgather, barrier, bcast, gather
from ..comm.timeline import Share, Timeline
from ..comm.waiting import complete
from ..data.rows import Rows, hold_out, keep, open_rows
from ..errors import InputError
from ..runs.events import Event, Note, Resumed, Spent, Stale
from ..runs.result import Result
from ..task import Task
from ..training.held_out import HeldOut
from ..training.loop import Clock, Recorder, fit
from ..training.prepare import build_model, build_optimizer, loss_of
from ..training.reporting import make_recorder, make_result, record_score
from ..training.seeds import derive
from ..training.spec import Sharded, read_compress
from . import checkpoint
from .aggregate import Aggregator, Replica, Settings, make_aggregator
from .aggregate.synchronous import AllReduce, Synchronous
from .batchnorm import absent, average_buffers, by_running_statistics, has_batchnorm, share_batchnorm
from .compression import make_compression
from .deal import Deal, SharedBatch, deal, shard_batches
from .keeping import IF_THERE, MUST, Keeping

TRAINING = "training loss"
FIRST = torch.zeros(1, dtype=torch.int64)
WARM_UP_STEPS = 5
OVERLAP_BYTES = 1 << 20
"""A bucket of the gradient is no smaller: below, starting another call costs more than it hides."""
MOST_BUCKETS = 8
TRIALS, WORTH = 7, 0.9
"""Steps by which the two are compared, and what part of the time is worth more calls: a smaller gain is noise."""


def train_sharded(context: Context, task: Task, spec: Sharded, keeping: Keeping | None = None) -> Result | None:
    """The rows dealt over the ranks; the same network on each; what they learn aggregated as `spec.aggregate` says."""
    work = _Work(context, task, spec, keeping)
    work.prepare()
    result = work.train()
    work.aggregator.close()
    return result


@dataclass
class _Work:
    """What one rank does of it."""

    context: Context
    task: Task
    spec: Sharded
    keeping: Keeping | None
    clock: Clock = field(default_factory=Clock)
    rows: Rows = field(init=False)
    held: HeldOut = field(init=False)
    deal: Deal = field(init=False)
    replica: Replica = field(init=False)
    aggregator: Aggregator = field(init=False)
    timeline: Timeline = field(init=False)
    recorder: Recorder = field(init=False)
    _loss: Any = None
    _shares_batchnorm: bool = False
    _is_alone_in_batchnorm: bool = False
    _agreed_to_stop: bool = False
    _buckets: int = 1
    _done: int = 0
    _saved: int = 0
    _hosts: list[str] = field(default_factory=list)

    @property
    def comm(self) -> Any:
        return self.context.comm

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return math.ceil(sum(self.deal.sizes) / self.spec.batch)

    def prepare(self) -> None:
        """Read this rank's rows, see that all fits, warm up, build."""
        spec, context = self.spec, self.context
        if spec.aggregate == "ordered":
            torch.set_num_threads(1)
        probe = build_model(self.task.model, spec.seed)
        try:
            self._read(probe)
        except InputError as error:
            agree(self.comm, error)
        agree(self.comm, None)
        self._see_same(probe)
        self._hosts = allgather(self.comm, socket.gethostname())
        is_synchronous = not isinstance(spec.aggregate, str) or spec.aggregate in ("server", "allreduce", "ordered")
        self._shares_batchnorm = is_synchronous and context.size > 1 and has_batchnorm(probe)
        self._is_alone_in_batchnorm = not is_synchronous and context.size > 1 and has_batchnorm(probe)
        self._say_what_differs(probe, is_synchronous)
        with torch.random.fork_rng():
            self._warm_up()
        self.timeline = Timeline(self.comm)
        self._build(self.timeline)

    def train(self) -> Result | None:
        """From the first step, or from where a checkpoint is, to the result (on rank 0)."""
        spec, context = self.spec, self.context
        torch.manual_seed(derive(spec.seed, context.rank))
        if self.keeping is not None and self._is_to_resume(self.keeping):
            self._resume(Path(self.keeping.path))
        rows = sum(self.deal.sizes)
        self.recorder = make_recorder(context, [TRAINING], rows, spec, muted=not context.is_root, done=self._done)
        barrier(self.comm)
        self.clock.resume()
        self.timeline.restart()
        finished = fit(
            self.step,
            self.epoch_batches,
            spec.epochs,
            recorder=self.recorder,
            clock=self.clock,
            stopping=lambda: self._agreed_to_stop,
            end_epoch=self._end_epoch,
            start=divmod(self._done, self.per_epoch),
        )
        if not finished and spec.save_every and self.aggregator.can_save():
            with self.clock.paused(), self.timeline.paused():
                self._save()
        self.recorder.add(self.aggregator.settle())
        self.recorder.flush()
        seconds = max(allgather(self.comm, self.clock.stop()))
        self._tell(self.timeline.share())
        average_buffers(self.replica.model, self.comm)
        network = build_model(self.task.model, spec.seed)
        network.load_state_dict(self.replica.model.state_dict())
        score = self.held.score(network)
        if score is None:
            return None
        way = spec.aggregate if isinstance(spec.aggregate, str) else spec.aggregate.__name__
        return make_result(
            context, self.task, spec, network, score, seconds, self.recorder.steps, finished,
            engine=way + (f", {self._buckets} buckets" if self._buckets > 1 else ""), breakdown=self._breakdown(),
            staleness=self.aggregator.staleness
        )  # fmt: skip

    def step(self, part: SharedBatch) -> Sequence[float]:
        """One step of this rank, with the others as the aggregator has it."""
        return self._step(self.aggregator, part)

    def epoch_batches(self, epoch: int) -> Sequence[SharedBatch]:
        return shard_batches(self.deal.sizes, self.context.rank, self.spec.batch, self.spec.seed, epoch)

    # Before.

    def _read(self, model: nn.Module) -> None:
        """Deal the rows; open this rank's, and its part of the held-out ones."""
        spec, context = self.spec, self.context
        every = open_rows(self.task, model)
        trained, held = hold_out(len(every), self.task.held_out, self.task.seed)
        labels = every.labels() if spec.deals_by_class else None
        self.deal = deal(trained, context.size, context.rank, spec.shards, spec.seed, labels, spec.skew)
        self.rows = keep(every, self.deal.rows)
        self.held = HeldOut(self.task, every, held, self.comm)
        self._loss = loss_of(self.task, self.rows.take(FIRST)[1])
        self.held.check(model, self.rows)

    def _build(self, timeline: Timeline) -> None:
        spec = self.spec
        model = build_model(self.task.model, spec.seed)
        if self._shares_batchnorm:
            model = share_batchnorm(model, self.comm)
        self.replica = Replica(model, lambda parameters: build_optimizer(self.task.optimizer, list(parameters)))
        weights = self.replica.weights.numpy()
        complete(self.comm.Ibcast(weights, root=0), weights)  # an initialisation may not go by torch's seed
        shapes = [p.shape for p in self.replica.parameters]
        settings = Settings(
            sync_every=spec.sync_every,
            staleness=spec.staleness,
            outer_lr=spec.outer_lr,
            outer_momentum=spec.outer_momentum,
            compression=make_compression(*read_compress(spec.compress), shapes, spec.seed),
        )
        self.aggregator = make_aggregator(spec.aggregate, self.comm, self.replica, settings, timeline)
        if isinstance(self.aggregator, AllReduce):
            self.aggregator.use_buckets(self._buckets)
            self._buckets = self.aggregator.buckets

    def _warm_up(self) -> None:
        """A few steps of a copy that is thrown away; of `allreduce`, also how many buckets are fastest."""
        self._build(Timeline(self.comm))
        parts = self.epoch_batches(0)[:WARM_UP_STEPS]
        for i in range(WARM_UP_STEPS):
            self._step(self.aggregator, parts[i % len(parts)], is_trial=True)
        aggregator = self.aggregator
        size = self.replica.count * self.replica.weights.element_size()
        buckets = min(MOST_BUCKETS, size // OVERLAP_BYTES)
        if isinstance(aggregator, AllReduce) and self.context.size > 1 and buckets > 1 and self.spec.compress == "none":
            times: dict[int, list[float]] = {1: [], buckets: []}
            for i, count in itertools.product(range(TRIALS), times):  # in turn: what slows one slows the other
                aggregator.use_buckets(count)
                barrier(self.comm)
                began = time.perf_counter()
                self._step(aggregator, parts[i % len(parts)], is_trial=True)
                times[count].append(time.perf_counter() - began)
            seconds = [statistics.median(each) for each in times.values()]
            self._buckets = bcast(self.comm, buckets if seconds[1] < WORTH * seconds[0] else 1)
            if self.context.is_root:
                said = (
                    f"a step takes {seconds[0] * 1e3:.2g} ms with the gradient in one call, {seconds[1] * 1e3:.2g} ms"
                )
                text = (
                    f"allreduce, {self._buckets} call{'s' * (self._buckets > 1)}: {said} with {buckets} during backward"
                )
                self.context.report(Note(rank=0, text=text, is_doubt=False))
        aggregator.settle()
        aggregator.close()

    def _see_same(self, model: nn.Module) -> None:
        """All ranks build the same model and deal the same rows, or none trains."""
        (first, dealt), *others = allgather(self.comm, (checkpoint.signature(model), self.deal.sizes))
        for rank, (theirs, sizes) in enumerate(others, 1):
            checkpoint.check_same(theirs, first, f"model() gives another network on rank {rank} than on rank 0")
            if sizes != dealt:
                raise InputError(
                    f"the data is not the same on every rank: {sum(dealt)} rows to train on on rank 0, {sum(sizes)} on "
                    f"rank {rank}, dealt as {dealt} and {sizes}"
                )

    def _say_what_differs(self, model: nn.Module, is_synchronous: bool) -> None:
        if self.context.is_root and self.context.size > 1 and has_batchnorm(model):
            if is_synchronous:
                text = "BatchNorm normalises over the rows of all ranks, as one process would"
            else:
                text = (
                    "BatchNorm: every rank normalises by its own part of a batch, so the result differs from one "
                    "process; the running statistics are averaged"
                )
            self.context.report(Note(rank=0, text=text, is_doubt=not is_synchronous))

    # While it trains.

    def _step(self, aggregator: Aggregator, part: SharedBatch, *, is_trial: bool = False) -> Sequence[float]:
        model = self.replica.model

        def loss() -> Tensor:
            if not has_rows:  # the others' BatchNorm waits for this rank, though it has no rows
                with absent(model):
                    return model(self.rows.take(FIRST)[0]).sum() * 0
            x, y = self.rows.take(part.rows)
            if self._is_alone_in_batchnorm and len(x) == 1:
                with by_running_statistics(model):
                    return self._loss(model(x), y)
            return self._loss(model(x), y)

        has_rows = len(part.rows) > 0
        has_part = has_rows or self._shares_batchnorm
        stop = self.context.stopping() and not is_trial
        try:
            outcome = aggregator.step(loss if has_part else None, part.weight, stop)
        except InputError as error:
            raise InputError(f"in epoch {self._done // self.per_epoch + 1}: {error}") from error
        if is_trial:
            return outcome.losses
        self._done += 1
        self._agreed_to_stop = outcome.stop
        if outcome.shares:
            self._tell(aggregator.timeline.share())
        elif aggregator.tells_alone and aggregator.timeline.is_due:
            self._tell([aggregator.timeline.tell()])
        if self.spec.save_every and self._done - self._saved >= self.spec.save_every:
            with self.clock.paused(), aggregator.timeline.paused():
                if aggregator.can_save():
                    self._save()
        return outcome.losses

    def _end_epoch(self, epoch: int) -> bool:
        with self.timeline.paused(), self.aggregator.whole():
            kept = [b.clone() for b in self.replica.model.buffers()]
            average_buffers(self.replica.model, self.comm)
            score = self.held.score(self.replica.model)
            with torch.no_grad():
                for buffer, own in zip(self.replica.model.buffers(), kept, strict=True):
                    buffer.copy_(own)
            if score is not None:
                record_score(self.recorder, epoch, score)
            # A rank whose way does not meet at every step may have heard of the wish alone.
            return any(allgather(self.comm, self._agreed_to_stop or self._wishes_to_stop()))

    def _wishes_to_stop(self) -> bool:
        return self.context.stopping() and not isinstance(self.aggregator, Synchronous)

    def _tell(self, shares: Sequence[Share]) -> None:
        events: list[Event] = [
            Spent(
                rank=share.rank,
                steps=share.steps,
                compute=share.compute,
                communication=share.communication,
                waiting=share.waiting,
                sent=share.sent,
            )
            for share in shares
        ]
        if events and (staleness := self.aggregator.staleness) is not None:
            events.append(Stale(rank=0, mean=staleness[0], most=staleness[1]))
        if events:
            self.context.report(*events)

    def _breakdown(self) -> tuple[dict[str, Any], ...]:
        names = ("steps", "compute", "communication", "waiting", "sent")
        return tuple(
            {"rank": rank, "host": host, **dict(zip(names, numbers, strict=True))}
            for rank, (host, numbers) in enumerate(zip(self._hosts, self.timeline.totals.tolist(), strict=True))
        )

    # Checkpoints.

    def _save(self) -> None:
        """Collective. A disk that takes no more is told of; the checkpoint before stays, the training goes on."""
        self._saved = self._done
        self.recorder.flush()
        own: dict[str, Any] = {"random": checkpoint.random_state(), "own": self.aggregator.state()}
        if not self.aggregator.is_replicated:
            own["weights"], own["optimizer"] = self.replica.weights, self.replica.optimizer.state_dict()
        own["buffers"] = list(self.replica.model.buffers())
        ranks = gather(self.comm, own)
        if ranks is not None and self.keeping is not None:
            self._write(Path(self.keeping.path), ranks)
        barrier(self.comm)  # nobody's clock goes on while rank 0 still writes

    def _write(self, path: Path, ranks: list[dict[str, Any]]) -> None:
        state = {
            "signature": checkpoint.signature(self.replica.model),
            "weights": self.replica.weights.detach(),
            "optimizer": self.replica.optimizer.state_dict(),
            "ranks": ranks,
            "done": self._done,
            "seconds": self.clock.seconds,
        }
        try:
            checkpoint.write(path, state)
        except OSError as error:
            text = f"no checkpoint after step {self._done}: {error.strerror or error}; the one before is kept"
            self.context.report(Note(rank=0, text=text))

    def _is_to_resume(self, keeping: Keeping) -> bool:
        """Collective: rank 0 looks, on its own host."""
        if keeping.resume != IF_THERE:
            return keeping.resume == MUST
        is_there = bcast(self.comm, checkpoint.exists(Path(keeping.path)))
        if not is_there and self.context.is_root:
            self.context.report(Resumed(rank=0, step=0, epoch=0.0))
        return is_there

    def _resume(self, path: Path) -> None:
        """Collective: go on from the newest checkpoint."""
        state: dict[str, Any] = {}
        said, wrong = "", None
        if self.context.is_root:
            try:
                state, said = checkpoint.read(path)
            except InputError as error:
                wrong = error
        agree(self.comm, wrong)
        state = bcast(self.comm, state)
        mine = checkpoint.signature(self.replica.model)
        theirs = [(name, tuple(shape), kind) for name, shape, kind in state["signature"]]
        checkpoint.check_same(theirs, mine, "the checkpoint is of another model")
        if len(state["ranks"]) != self.context.size:
            raise InputError(
                f"the checkpoint is of {len(state['ranks'])} ranks: workers = {self.context.size} cannot go on from it"
            )
        own = state["ranks"][self.context.rank]
        with torch.no_grad():
            self.replica.weights.copy_(own.get("weights", state["weights"]))
            for buffer, value in zip(self.replica.model.buffers(), own["buffers"], strict=True):
                buffer.copy_(value)
        self.replica.optimizer.load_state_dict(own.get("optimizer", state["optimizer"]))
        self.aggregator.load(own["own"])
        checkpoint.set_random_state(own["random"])
        self._done = self._saved = state["done"]
        self.clock.seconds = state["seconds"]
        if self.context.is_root:
            if said:
                self.context.report(Note(rank=0, text=said))
            self.context.report(Resumed(rank=0, step=self._done, epoch=self._done / self.per_epoch))
