"""The programs that ranks run: a task and a spec in, a Result on rank 0 out.

The clock covers what a way needs to turn untrained weights into one trained network: steps, communication, fusion.
Preparing the data, warming up and scoring are the same for all ways and are left out. All ways take their batches by
indexing tensors; a DataLoader would slow the baseline down and flatter the rest.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle
import torch
from torch import Tensor, nn

from ..runs.events import Note, Points
from ..runs.result import Result
from ..task import Task
from .aggregate import AGGREGATORS
from .context import Context
from .fuse import MeanFusion, diversity
from .loop import Clock, Recorder, Step, batches, fit, plain_step
from .prepare import Prepared, count_parameters, prepare
from .seeds import derive
from .shards import SharedBatch, shard, shard_batches
from .spec import Baseline, Sharded, Spec, Subnets
from .split import make_subnets
from .stacked import STACKABLE_OPTIMIZERS, Stack, can_run, stack, stacked_step

WARM_UP_STEPS = 5
TRAINING, HELD_OUT = "training loss", "held-out loss"


def train_baseline(context: Context, task: Task, spec: Baseline) -> Result:
    """The network as it is, in one process."""
    prepared = prepare(task)

    def build() -> tuple[nn.Module, Step[Tensor]]:
        model = prepared.model(spec.seed)
        return model, plain_step(
            model, prepared.optimizer(model.parameters()), prepared.loss_function, prepared.x, prepared.y
        )

    def epoch_batches(epoch: int) -> Sequence[Tensor]:
        return batches(len(prepared.x), spec.batch, spec.seed, epoch)

    _warm_up(lambda: build()[1], epoch_batches)
    model, step = build()
    torch.manual_seed(spec.seed)
    recorder, clock = _recorder(context, [TRAINING], prepared, spec), Clock()

    def end_epoch(epoch: int) -> bool:
        _report_held_out(context, prepared, epoch, prepared.outputs(model))
        return context.stopping()

    clock.start()
    finished = fit(
        step, epoch_batches, spec.epochs, recorder=recorder, clock=clock, stopping=context.stopping, end_epoch=end_epoch
    )
    return _result(context, prepared, spec, model, clock.stop(), recorder.steps, finished)


def train_subnets(context: Context, task: Task, spec: Subnets) -> Result | None:
    """N subnets dealt over the ranks; each rank trains its own as one batched program; rank 0 fuses them."""
    prepared = prepare(task)
    mine = shard(spec.subnets, context.size, context.rank)
    loss = prepared.loss_function

    def build() -> tuple[list[Stack], Step[Tensor]]:
        subnets = make_subnets(task, spec.subnets, spec.seed, range(mine.start, mine.stop))
        is_stackable = type(prepared.optimizer(list(subnets[0].parameters()))) in STACKABLE_OPTIMIZERS
        stacks = stack(subnets, separate=not is_stackable)
        if not can_run(stacks, prepared.x[:2]):
            stacks = stack(subnets, separate=True)
        return stacks, stacked_step(stacks, prepared.optimizer, loss, prepared.x, prepared.y)

    def epoch_batches(epoch: int) -> Sequence[Tensor]:
        return batches(len(prepared.x), spec.batch, spec.seed, epoch)

    _warm_up(lambda: build()[1], epoch_batches)
    stacks, step = build()
    torch.manual_seed(derive(spec.seed, context.rank))
    recorder = _recorder(context, [f"subnet {i}" for i in mine], prepared, spec)
    clock = Clock()

    def trained() -> list[nn.Module]:
        pairs = [pair for each in stacks for pair in zip(each.members, each.unstack(), strict=True)]
        return [subnet for _, subnet in sorted(pairs, key=lambda pair: pair[0])]

    def end_epoch(epoch: int) -> bool:
        own = torch.stack([prepared.outputs(subnet) for subnet in trained()]).sum(0)
        shared = context.comm.gather((own, context.stopping()), root=0)
        stop = False
        if shared is not None:
            _report_held_out(context, prepared, epoch, sum(part for part, _ in shared) / spec.subnets)
            stop = any(flag for _, flag in shared)
        return context.comm.bcast(stop, root=0)

    context.comm.Barrier()
    clock.start()
    finished = fit(
        step, epoch_batches, spec.epochs, recorder=recorder, clock=clock, stopping=context.stopping, end_epoch=end_epoch
    )
    gathered = context.comm.gather(cloudpickle.dumps(trained()), root=0)  # by value: MPI's own pickle is by reference
    fused = None if gathered is None else MeanFusion(itertools.chain.from_iterable(map(cloudpickle.loads, gathered)))
    seconds = max(context.comm.allgather(clock.stop()))
    engines = context.comm.gather([each.engine for each in stacks], root=0)
    if fused is None:
        return None
    outputs = torch.stack([prepared.outputs(subnet) for subnet in fused.subnets])
    names = sorted(set(itertools.chain.from_iterable(engines)))
    if any(of_rank.count("separate") > 1 for of_rank in engines):
        context.report(Note(rank=0, text="some subnets cannot be stacked and were trained one after the other"))
    return _result(
        context, prepared, spec, fused, seconds, recorder.steps, finished,
        engine="+".join(names), subnet_scores=tuple(prepared.score(output).metric for output in outputs),
        diversity=diversity(outputs),
    )  # fmt: skip


def train_sharded(context: Context, task: Task, spec: Sharded) -> Result | None:
    """The rows dealt over the ranks; the same network on each; gradients aggregated at every step."""
    prepared = prepare(task)
    rows = len(prepared.x)
    mine = shard(rows, context.size, context.rank)
    x, y = prepared.x[mine.start : mine.stop], prepared.y[mine.start : mine.stop]
    agreed_to_stop = False

    def build() -> tuple[nn.Module, Step[SharedBatch]]:
        model = prepared.model(spec.seed)
        aggregator = AGGREGATORS[spec.aggregate](context.comm, model, prepared.optimizer(model.parameters()))

        def step(part: SharedBatch) -> Tensor:
            nonlocal agreed_to_stop
            loss = (lambda: prepared.loss(model(x[part.rows]), y[part.rows])) if len(part.rows) else None
            value, agreed_to_stop = aggregator.step(loss, part.weight, context.stopping())
            return value.reshape(1)

        return model, step

    def epoch_batches(epoch: int) -> Sequence[SharedBatch]:
        return shard_batches(rows, context.size, context.rank, spec.batch, spec.seed, epoch)

    _warm_up(lambda: build()[1], epoch_batches)
    model, step = build()
    torch.manual_seed(derive(spec.seed, context.rank))
    if (
        context.is_root
        and context.size > 1
        and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    ):
        context.report(
            Note(rank=0, text="BatchNorm: every rank normalises by its own shard; rank 0's statistics are kept")
        )
    recorder, clock = _recorder(context, [TRAINING], prepared, spec, muted=not context.is_root), Clock()

    def end_epoch(epoch: int) -> bool:
        if context.is_root:
            _report_held_out(context, prepared, epoch, prepared.outputs(model))
        context.comm.Barrier()
        return agreed_to_stop

    context.comm.Barrier()
    clock.start()
    finished = fit(
        step,
        epoch_batches,
        spec.epochs,
        recorder=recorder,
        clock=clock,
        stopping=lambda: agreed_to_stop,
        end_epoch=end_epoch,
    )
    seconds = max(context.comm.allgather(clock.stop()))
    if not context.is_root:
        return None
    return _result(context, prepared, spec, model, seconds, recorder.steps, finished, engine=spec.aggregate)


def _warm_up(build: Callable[[], Step[Any]], epoch_batches: Callable[[int], Sequence[Any]]) -> None:
    """A few steps of a copy that is thrown away: first calls are slow, and not what is to be measured."""
    with torch.random.fork_rng():
        step = build()
        for batch in itertools.islice(itertools.cycle(epoch_batches(0)), WARM_UP_STEPS):
            step(batch)


def _recorder(
    context: Context, curves: Sequence[str], prepared: Prepared, spec: Spec, *, muted: bool = False
) -> Recorder:
    """`muted` where every rank sees the same losses: all look for NaN, so that all end together, and one reports."""
    steps = math.ceil(len(prepared.x) / spec.batch)
    report = (lambda event: None) if muted else context.report
    return Recorder(report, context.rank, curves, steps, spec.epochs)


def _report_held_out(context: Context, prepared: Prepared, epoch: int, outputs: Tensor) -> None:
    score = prepared.score(outputs)
    context.report(Points(rank=context.rank, curve=HELD_OUT, x=(float(epoch),), y=(score.loss,)))
    if score.metric_name != "loss":
        context.report(Points(rank=context.rank, curve=score.metric_name, x=(float(epoch),), y=(score.metric,)))


def _result(
    context: Context,
    prepared: Prepared,
    spec: Spec,
    network: nn.Module,
    seconds: float,
    steps: int,
    finished: bool,
    **more: Any,
) -> Result:
    score = prepared.score(prepared.outputs(network))
    return Result(
        way=spec.way,
        task=prepared.task.name,
        options=spec.options(),
        state="done" if finished else "stopped",
        workers=context.size,
        threads=context.threads,
        seconds=seconds,
        steps=steps,
        loss=score.loss,
        metric=score.metric,
        metric_name=score.metric_name,
        parameters=count_parameters(network),
        network_bytes=cloudpickle.dumps(network.eval()),
        **more,
    )


PROGRAMS: dict[type[Spec], Callable[..., Result | None]] = {
    Baseline: train_baseline,
    Subnets: train_subnets,
    Sharded: train_sharded,
}
