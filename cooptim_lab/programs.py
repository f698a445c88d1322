"""The programs that ranks run: a task and a spec in, a Result on rank 0 out.

The clock covers what a way needs to turn untrained weights into one trained network: steps, communication, fusion.
Preparing the data, warming up and scoring are the same for all ways and are left out. All ways take their batches by
indexing tensors; a DataLoader would slow the baseline down and flatter the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .comm.context import Context
from .preparing.building import trained
from .preparing.modes import enter_training, leave_training
from .preparing.prepare import prepare
from .preparing.seeds import seed_all
from .runs.result import Result
from .shards.program import train_sharded
from .subnets.program import train_subnets
from .subnets.shrinking import shrink
from .task import Task
from .training.loop import Clock, Step, batches, fit, plain_step
from .training.reporting import make_recorder, make_result, record_score, tell_findings, warm_up
from .training.spec import Baseline, Sharded, Spec, Subnets
from .training.stepping import make_scheduler
from .training.threads import try_threads

TRAINING = "training loss"


def train_baseline(context: Context, task: Task, spec: Baseline) -> Result:
    """The network as it is, in one process."""
    prepared = prepare(task, spec.batch)
    tell_findings(context, prepared.findings)
    steps = spec.epochs * math.ceil(len(prepared.x) / spec.batch)

    def build(*, is_trial: bool = False) -> tuple[nn.Module, torch.optim.Optimizer, Step[Tensor]]:
        given = prepared.for_trial() if is_trial else prepared
        model = given.model(spec.seed)
        if spec.parameters:
            model = shrink(task, prepared.x[:2], spec.parameters, spec.seed)
        named = trained(model)
        optimizer = given.optimizer([p for _, p in named], [name for name, _ in named])
        enter_training(optimizer)
        scheduler = make_scheduler(given.task, optimizer, steps, is_trial=is_trial)
        loss, x, y = given.loss_function, given.x, given.y
        step = plain_step(model, optimizer, loss, x, y, clipped=task.clip, scheduler=scheduler)
        return model, optimizer, step

    def epoch_batches(epoch: int) -> Sequence[Tensor]:
        return batches(len(prepared.x), spec.batch, spec.seed, epoch)

    def tryout() -> Step[Tensor]:
        return build(is_trial=True)[2]

    tried = try_threads(tryout, epoch_batches, torch.get_num_threads())
    warm_up(tryout, epoch_batches)
    model, optimizer, step = build()
    seed_all(spec.seed)
    recorder, clock = make_recorder(context, [TRAINING], len(prepared.x), spec), Clock()

    def end_epoch(epoch: int) -> bool:
        record_score(recorder, epoch, prepared.score(prepared.outputs(model, optimizer)))
        return context.stopping()

    clock.start()
    finished = fit(
        step, epoch_batches, spec.epochs, recorder=recorder, clock=clock, stopping=context.stopping, end_epoch=end_epoch
    )
    seconds = clock.stop()
    leave_training(optimizer)
    score = prepared.score(prepared.outputs(model))
    return make_result(context, task, spec, model, score, seconds, recorder.steps, finished, tried=tried)


PROGRAMS: dict[type[Spec], Callable[..., Result | None]] = {
    Baseline: train_baseline,
    Subnets: train_subnets,
    Sharded: train_sharded,
}
