"""The programs that ranks run: a task and a spec in, a Result on rank 0 out.

The clock covers what a way needs to turn untrained weights into one trained network: steps, communication, fusion.
Preparing the data, warming up and scoring are the same for all ways and are left out. All ways take their batches by
indexing tensors; a DataLoader would slow the baseline down and flatter the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..runs.events import Note
from ..runs.result import Result
from ..task import Task
from .aggregate import AGGREGATORS
from .context import Context
from .loop import Clock, Step, batches, fit, plain_step
from .prepare import prepare
from .reporting import make_recorder, make_result, report_held_out, warm_up
from .seeds import derive
from .shards import SharedBatch, shard, shard_batches
from .spec import Baseline, Sharded, Spec, Subnets
from .split import shrink
from .subnets import train_subnets

TRAINING = "training loss"


def train_baseline(context: Context, task: Task, spec: Baseline) -> Result:
    """The network as it is, in one process."""
    prepared = prepare(task)

    def build() -> tuple[nn.Module, Step[Tensor]]:
        model = prepared.model(spec.seed)
        if spec.parameters:
            model = shrink(task, prepared.x[:2], spec.parameters, spec.seed)
        return model, plain_step(
            model, prepared.optimizer(model.parameters()), prepared.loss_function, prepared.x, prepared.y
        )

    def epoch_batches(epoch: int) -> Sequence[Tensor]:
        return batches(len(prepared.x), spec.batch, spec.seed, epoch)

    warm_up(lambda: build()[1], epoch_batches)
    model, step = build()
    torch.manual_seed(spec.seed)
    recorder, clock = make_recorder(context, [TRAINING], len(prepared.x), spec), Clock()

    def end_epoch(epoch: int) -> bool:
        report_held_out(context, prepared, epoch, prepared.outputs(model))
        return context.stopping()

    clock.start()
    finished = fit(
        step, epoch_batches, spec.epochs, recorder=recorder, clock=clock, stopping=context.stopping, end_epoch=end_epoch
    )
    return make_result(context, prepared, spec, model, clock.stop(), recorder.steps, finished)


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

    warm_up(lambda: build()[1], epoch_batches)
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
    recorder, clock = make_recorder(context, [TRAINING], len(prepared.x), spec, muted=not context.is_root), Clock()

    def end_epoch(epoch: int) -> bool:
        if context.is_root:
            report_held_out(context, prepared, epoch, prepared.outputs(model))
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
    return make_result(context, prepared, spec, model, seconds, recorder.steps, finished, engine=spec.aggregate)


PROGRAMS: dict[type[Spec], Callable[..., Result | None]] = {
    Baseline: train_baseline,
    Subnets: train_subnets,
    Sharded: train_sharded,
}
