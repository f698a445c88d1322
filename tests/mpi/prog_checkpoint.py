"""BatchNorm whose activations a checkpoint does not keep: over ranks it is one plain process, in float64.

Run under mpiexec; every rank asserts. A breakage beside it: a backward pass that knows nothing of the other ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from mpi4py import MPI
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from cooptim_lab import Task
from cooptim_lab.comm.context import Context
from cooptim_lab.shards.aggregate import Replica
from cooptim_lab.shards.program import train_sharded
from cooptim_lab.training.spec import Sharded
from tests.one_process import distance, train_alone

ROWS, TOLERANCE = 59, 1e-11
comm = MPI.COMM_WORLD
rank, size = comm.Get_rank(), comm.Get_size()
torch.set_num_threads(1)

X = torch.randn(ROWS, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > X[:, 1]).long() + (X[:, 2] > 0)


class Again(nn.Module):
    """Its BatchNorm is called again for the gradient, and counts the batch a second time: as in one process."""

    def __init__(self, *, reentrant: bool, depth: int) -> None:
        super().__init__()
        self.a, self.n, self.b = nn.Linear(6, 7, bias=False), nn.BatchNorm1d(7), nn.Linear(7, 3)
        self.register_buffer("mean", torch.zeros(7))
        self.register_buffer("var", torch.ones(7))
        self.reentrant, self.depth = reentrant, depth
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.kept_of_none(torch.tanh(self.a(x)), self.depth))

    def hidden(self, h: Tensor) -> Tensor:
        return F.batch_norm(torch.tanh(self.n(h)), self.mean, self.var, training=self.training)

    def kept_of_none(self, h: Tensor, depth: int) -> Tensor:
        def inner(h: Tensor) -> Tensor:
            return self.hidden(h) if depth == 1 else self.kept_of_none(h, depth - 1)

        return checkpoint(inner, h, use_reentrant=self.reentrant)


def task_of(model: Callable[[], nn.Module]) -> Task:
    return Task(model=model, data=(X, Y), optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))


def trained(model: Callable[[], nn.Module], spec: Sharded) -> nn.Module:
    result = train_sharded(Context(comm, lambda *new: None, lambda: False), task_of(model), spec)
    return comm.bcast(result.network if result else None, root=0)


def make(*, reentrant: bool, depth: int) -> Callable[[], nn.Module]:
    return lambda: Again(reentrant=reentrant, depth=depth)


for reentrant in (False, True):
    for depth in (1, 2):
        model, spec = make(reentrant=reentrant, depth=depth), Sharded(workers=size, epochs=4, batch=10)
        found = distance(trained(model, spec), train_alone(task_of(model), spec, size))
        assert found < TOLERANCE, (reentrant, depth, found)

if size > 1:
    Replica.within = property(lambda self: nullcontext(), lambda self, value: None)
    found = distance(trained(model, spec), train_alone(task_of(model), spec, size))
    assert found > 1e-6, found
