"""Sub-networks trained one after the other by the loop that everybody writes first: the oracle of the way `subnets`."""

from __future__ import annotations

import torch

from cooptim_lab import Task
from cooptim_lab.comm.context import Context
from cooptim_lab.preparing.building import trained
from cooptim_lab.preparing.modes import has_modes, leave_training
from cooptim_lab.preparing.prepare import prepare
from cooptim_lab.programs import train_subnets
from cooptim_lab.runs.events import Note
from cooptim_lab.subnets.sampling import batches_each
from cooptim_lab.subnets.split import divide
from cooptim_lab.subnets.states import state_of
from cooptim_lab.training.loop import plain_step
from cooptim_lab.training.spec import Subnets
from cooptim_lab.training.stepping import make_scheduler
from tests.networks import make
from tests.support import SoloComm

EXACT = 1e-10
X = torch.randn(65, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > X[:, 1]).long() + (X[:, 2] > 0)


def task(**changed):
    return Task(**{"model": make("perceptron")[0], "data": (X, Y), "name": "test", **changed})


def run(task, program=train_subnets, spec=None, **options):
    events = []
    spec = spec or Subnets(**{"subnets": 2, "epochs": 3, "batch": 16, "engine": "stacked", **options})
    result = program(Context(SoloComm(), lambda *new: events.extend(new), lambda: False, threads=1), task, spec)
    return result, [event.text for event in events if isinstance(event, Note)]


def alone(task, **options):
    """Each subnet by the loop that everybody writes first."""
    spec = Subnets(**{"subnets": 2, "epochs": 3, "batch": 16, **options})
    prepared = prepare(task, spec.batch, spec.parts)
    subnets = divide(task, prepared.x[:2], spec.subnets, split=spec.split, seed=spec.seed).make()
    for i, subnet in enumerate(subnets):
        named = trained(subnet)
        optimizer = prepared.optimizer([p for _, p in named], [name for name, _ in named])
        if has_modes(optimizer):
            optimizer.train()
        every = [batches_each(len(prepared.x), spec, range(spec.subnets), epoch) for epoch in range(spec.epochs)]
        scheduler = make_scheduler(task, optimizer, sum(map(len, every)))
        step = plain_step(subnet, optimizer, prepared.loss_function, prepared.x, prepared.y, clipped=task.clip,
                          scheduler=scheduler)  # fmt: skip
        for rows in (rows for epoch in every for rows in epoch):
            step(rows[i] if rows.dim() == 2 else rows)
        leave_training(optimizer)
    return subnets


@torch.no_grad()
def distance(some, others):
    pairs = [
        (a.double(), b.double())
        for one, other in zip(some, others, strict=True)
        for a, b in zip(state_of(one).values(), state_of(other).values(), strict=True)
    ]
    return max(float((a - b).abs().max()) for a, b in pairs)


def by_dimensions(parameters):
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.5},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "lr": 0.05},
    ]
    return torch.optim.AdamW(groups, lr=0.01)


def some_with_momentum(parameters):
    first, *others = parameters
    return torch.optim.SGD([{"params": [first], "momentum": 0.9}, {"params": others}], lr=0.05)


DECAYING = {
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.5),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
}
SCHEDULES = {
    "one cycle, momentum too": lambda o, steps: torch.optim.lr_scheduler.OneCycleLR(o, 0.2, total_steps=steps + 1),
    "of each group": lambda o, steps: torch.optim.lr_scheduler.LambdaLR(
        o, [lambda step: 0.9**step, lambda step: 1 / (1 + step)][: len(o.param_groups)]
    ),
    "warm-up, then cosine": lambda o, steps: torch.optim.lr_scheduler.SequentialLR(
        o,
        [
            torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=3),
            torch.optim.lr_scheduler.CosineAnnealingLR(o, steps - 3),
        ],
        [3],
    ),
}
