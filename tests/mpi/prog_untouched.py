"""A parameter that gets no gradient in some steps only: M ranks are one process, in float64.

Run under mpiexec; every rank asserts. One process leaves a parameter as it is where no row of the batch has reached it;
what a row of rank 1 has reached is touched, though rank 0 has nothing for it. Beside it the breakage: a gradient of 0.
"""

from __future__ import annotations

from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor, nn

from cooptim_lab import Task
from cooptim_lab.comm.context import Context
from cooptim_lab.shards import program
from cooptim_lab.shards.aggregate import Replica, shared
from cooptim_lab.training.spec import Sharded
from tests.one_process import distance, train_alone

ROWS, EPOCHS, TOLERANCE = 118, 4, 1e-11
comm = MPI.COMM_WORLD
rank, size = comm.Get_rank(), comm.Get_size()
torch.set_num_threads(1)
shared.UNDIVIDED = 0  # so that small networks are divided too

X = torch.randn(ROWS, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > X[:, 1]).long() + (X[:, 2] > 0)


class Branching(nn.Module):
    """Two layers, of which the second is not always used."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 3)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        out = self.a(x)
        chosen = self.chosen(x)
        return out + self.b(x) * chosen.unsqueeze(1) if chosen.any() else out


class ByStep(Branching):
    """In the first steps, then in every third."""

    def chosen(self, x: Tensor) -> Tensor:
        steps = int(self.steps)
        return torch.full((len(x),), not self.training or steps < 9 or steps % 3 == 0)


class ByRow(Branching):
    """By few rows, which only some batches have, and of these only some ranks."""

    def chosen(self, x: Tensor) -> Tensor:
        return x[:, 0] > 1.8


class Late(ByRow):
    """By few rows, after the first epoch."""

    def chosen(self, x: Tensor) -> Tensor:
        return super().chosen(x) if self.steps > 12 else torch.ones(len(x), dtype=torch.bool)


class Plain:
    """A user's own way."""

    def aggregate(self, comm: Any, gradient: Any) -> None:
        gradient[:] = sum(comm.allgather(gradient))


def momentum(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.05)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.3)


def apart(task: Task, way: Any) -> float:
    """How far a training of all ranks is from that of one process."""
    spec = Sharded(workers=size, aggregate=way, epochs=EPOCHS, batch=9)
    result = program.train_sharded(Context(comm, lambda *new: None, lambda: False), task, spec)
    network = comm.bcast(result.network if result else None, root=0)
    return distance(network, train_alone(task, spec, size))


warm_up, untouched = program.warm_up, Replica.untouched
for model, optimizer, ways in (
    (ByStep, adam, ("allreduce", "server", "ordered", "shared")),
    (ByRow, momentum, ("allreduce", "server", Plain)),
    (Late, adam, ("allreduce",)),
):
    task = Task(model=model, data=(X, Y), optimizer=optimizer)
    for way in ways:
        found = apart(task, way)
        assert found < TOLERANCE, (model, way, found)
    Replica.untouched = lambda self: []
    assert apart(task, "allreduce") > 1e-6, (model, "no breakage")
    Replica.untouched = untouched
program.warm_up = lambda *given: 3
found = apart(task, "allreduce")
assert found < TOLERANCE, ("in buckets", found)
program.warm_up = warm_up
