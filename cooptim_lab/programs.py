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
from .preparing.building import count_parameters, trained
from .preparing.modes import enter_training, evaluating, leave_training
from .preparing.prepare import Prepared, prepare
from .preparing.seeds import seed_all
from .runs.events import Note
from .runs.result import Result
from .shards.program import train_sharded
from .subnets.program import train_subnets
from .subnets.pruning import Pruner
from .subnets.shrinking import shrink
from .task import Task
from .training.loop import Clock, Step, batches, fit, plain_step
from .training.reporting import make_recorder, make_result, record_score, tell_findings, warm_up
from .training.spec import Baseline, Sharded, Spec, Subnets
from .training.stepping import make_scheduler
from .training.threads import try_threads

TRAINING = "training loss"
WHOLE_EPOCHS = 1
"""Before a network is pruned: what a unit weighs means something then, and most of the training is still to come."""


def train_baseline(context: Context, task: Task, spec: Baseline) -> Result:
    """The network as it is, or as its plan has it, in one process."""
    plan = spec.plan
    prepared = prepare(task, spec.batch)
    tell_findings(context, prepared.findings)

    def epoch_batches(epoch: int) -> Sequence[Tensor]:
        return batches(len(prepared.x), spec.batch, spec.seed, epoch)

    def tryout() -> Step[Tensor]:
        model, _, step_of = build(prepared, spec, is_trial=True)
        return step_of(model)

    tried = () if plan else try_threads(tryout, epoch_batches, torch.get_num_threads())
    warm_up(tryout, epoch_batches)
    model, optimizer, step_of = build(prepared, spec)
    pruner = Pruner(model, prepared.x[:2], round(spec.prune * count_parameters(model))) if spec.prune else None
    seed_all(spec.seed)
    recorder, clock = make_recorder(context, [TRAINING], len(prepared.x), spec), Clock()

    def end_epoch(epoch: int) -> bool:
        with evaluating(model, optimizer):
            record_score(recorder, epoch, prepared.score(prepared.outputs(plan.give_back(model))))
        return context.stopping() or recorder.has_reached

    def go_on(first: int, last: int) -> bool:
        return fit(
            step_of(model),
            epoch_batches,
            last,
            recorder=recorder,
            clock=clock,
            stopping=context.stopping,
            end_epoch=end_epoch,
            start=(first, 0),
        )

    clock.start()
    whole = WHOLE_EPOCHS if pruner else spec.epochs
    finished = go_on(0, whole)
    if pruner and finished and not recorder.has_reached and whole < spec.epochs:
        before, model = count_parameters(model), pruner.prune(optimizer)
        recorder.say(Note(text=f"pruned from {before:,} to {count_parameters(model):,} parameters", is_doubt=False))
        finished = go_on(whole, spec.epochs)
    seconds = clock.stop()
    leave_training(optimizer)
    network = plan.give_back(model)
    score = prepared.score(prepared.outputs(network))
    return make_result(
        context, task, spec, network, score, seconds, recorder.steps, finished, tried=tried, path=recorder.path
    )


def build(
    prepared: Prepared, spec: Baseline, *, is_trial: bool = False
) -> tuple[nn.Module, torch.optim.Optimizer, Callable[[nn.Module], Step[Tensor]]]:
    """The network that trains in one process, what steps it, and what makes a step of it; of a trial, all of its own.

    The task of `prepared` is as the plan has it (`Plan.of_task`).
    """
    plan, given = spec.plan, prepared.for_trial() if is_trial else prepared
    task, steps = given.task, spec.epochs * math.ceil(len(given.x) / spec.batch)
    model = given.model(spec.seed)
    if parameters := spec.parameters or round(spec.narrow * count_parameters(model)):
        model = shrink(task, given.x[:2], parameters, spec.seed)
    model = plan.of_network(model)
    named = trained(model)
    optimizer = given.optimizer([p for _, p in named], [name for name, _ in named])
    enter_training(optimizer)
    scheduler = make_scheduler(task, optimizer, steps, is_trial=is_trial)
    rows = plan.of_rows(given.x)

    def step_of(network: nn.Module) -> Step[Tensor]:
        return plain_step(
            network,
            optimizer,
            given.loss_function,
            rows,
            given.y,
            clipped=task.clip,
            scheduler=scheduler,
            around_forward=plan.forward if plan.has_forward else None,
        )

    return model, optimizer, step_of


PROGRAMS: dict[type[Spec], Callable[..., Result | None]] = {
    Baseline: train_baseline,
    Subnets: train_subnets,
    Sharded: train_sharded,
}
