"""Synchronous sharded training is one process that takes the union of the ranks' parts at every step. In float64.

Run under mpiexec on any number of ranks; every rank asserts.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from mpi4py import MPI
from torch import Tensor, nn
from torch.nn import functional

from cooptim_lab.training.aggregate import AGGREGATORS
from cooptim_lab.training.loop import plain_step
from cooptim_lab.training.shards import SharedBatch, shard, shard_batches

ROWS, BATCH, EPOCHS, SEED, TOLERANCE = 47, 10, 24, 3, 1e-12  # 5 steps an epoch, and no M divides the rows
comm = MPI.COMM_WORLD
rank, size = comm.Get_rank(), comm.Get_size()
torch.set_num_threads(1)

x = torch.randn(ROWS, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
y = (x[:, 0] > x[:, 1]).long()
own = slice(shard(ROWS, size, rank).start, shard(ROWS, size, rank).stop)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 2)).double()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def sharded(name: str, weight: Callable[[SharedBatch], float]) -> tuple[Tensor, Tensor]:
    """Weights after training over all ranks, and the loss of every step."""
    model, losses = network(), []
    aggregator = AGGREGATORS[name](comm, model, sgd(model))
    for epoch in range(EPOCHS):
        for part in shard_batches(ROWS, size, rank, BATCH, SEED, epoch):
            rows = part.rows
            loss = (lambda r=rows: functional.cross_entropy(model(x[own][r]), y[own][r])) if len(rows) else None
            losses.append(aggregator.step(loss, weight(part), False)[0])
    return flat(model), torch.stack(losses)


def alone() -> tuple[Tensor, Tensor]:
    """The same of one process that takes, at every step, what all ranks together take."""
    model, losses = network(), []
    step = plain_step(model, sgd(model), functional.cross_entropy, x, y)
    for epoch in range(EPOCHS):
        everyone = [shard_batches(ROWS, size, r, BATCH, SEED, epoch) for r in range(size)]
        for parts in zip(*everyone, strict=True):
            losses.append(step(torch.cat([part.rows + shard(ROWS, size, r).start for r, part in enumerate(parts)])))
    return flat(model), torch.cat(losses)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


expected, expected_losses = alone()
assert len(expected_losses) >= 100
trained = {}
for name in AGGREGATORS:
    trained[name], losses = sharded(name, lambda part: part.weight)
    assert distance(trained[name], expected) < TOLERANCE, (name, distance(trained[name], expected))
    assert distance(losses, expected_losses) < TOLERANCE, name
    everyones = comm.allgather(trained[name])
    assert all(torch.equal(each, trained[name]) for each in everyones), f"{name}: the ranks do not agree"
assert distance(trained["server"], trained["allreduce"]) < TOLERANCE

# Breakage: the plain 1/M, where the parts are not of equal size.
for name in AGGREGATORS:
    broken, _ = sharded(name, lambda part: 1 / size)
    assert distance(broken, expected) > 1e-6, name

# Two ranks never disagree on when to stop: the wish travels with the step.
for name in AGGREGATORS:
    model = network()
    aggregator = AGGREGATORS[name](comm, model, sgd(model))
    for wisher in (None, 0, size - 1):
        _, stop = aggregator.step(lambda m=model: functional.cross_entropy(m(x), y), 1 / size, rank == wisher)
        assert stop is (wisher is not None), (name, wisher)
