"""Identities of sharded training on any number of ranks; run under mpiexec, every rank asserts. In float64.

Synchronous training is one process that takes the union of the ranks' parts at every step, BatchNorm included;
`ordered` is one process that plays all ranks, bit for bit; local SGD that meets at every step is synchronous SGD. A
breakage beside each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor, nn
from torch.nn import functional

from cooptim_lab.comm import host
from cooptim_lab.comm.timeline import Timeline
from cooptim_lab.shards.aggregate import (
    AGGREGATORS,
    Aggregator,
    Replica,
    Settings,
    make_aggregator,
    make_place,
    shared,
)  # fmt: skip
from cooptim_lab.shards.aggregate.synchronous import AllReduce, add_in_order
from cooptim_lab.shards.batchnorm import OverRanks
from cooptim_lab.shards.deal import SharedBatch, deal, shard_batches
from cooptim_lab.training.loop import plain_step
from tests.support import learning_by

ROWS, BATCH, EPOCHS, SEED, TOLERANCE = 47, 10, 20, 3, 1e-12  # 5 steps an epoch, and no M divides the rows
SYNCHRONOUS = ("server", "allreduce", "ordered", "shared")
comm = MPI.COMM_WORLD
rank, size = comm.Get_rank(), comm.Get_size()
torch.set_num_threads(1)
AS_IT_IS, shared.UNDIVIDED = shared.UNDIVIDED, 0  # so that small networks are divided too

x = torch.randn(ROWS, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
y = (x[:, 0] > x[:, 1]).long()
every = torch.arange(ROWS, dtype=torch.int32)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 2)).double()


def normed() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 2)).double()


def momentum(parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def plain(parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def deals(skew: float):
    labels = y.numpy() if skew else None
    return [deal(every, size, r, "shuffle", SEED, labels, skew) for r in range(size)]


class Plain:
    """A user's own way."""

    def aggregate(self, comm, gradient) -> None:
        gradient[:] = sum(comm.allgather(gradient))


def carrying(way, model: nn.Module, optimizer=momentum, **settings) -> Aggregator:
    timeline = Timeline(comm)
    replica = Replica(model, learning_by(optimizer), place=make_place(way, comm, timeline))
    return make_aggregator(way, comm, replica, Settings(**settings), timeline)


def sharded(
    way,
    weight: Callable[[SharedBatch], float] = lambda part: part.weight,
    *,
    make=network,
    optimizer=momentum,
    skew: float = 0.0,
    buckets: int = 1,
    share: bool = True,
    **settings,
) -> tuple[Tensor, Tensor]:
    """Weights after training over all ranks, and the loss of every step."""
    model, losses = make(), []
    is_normed = share and make is normed
    over_ranks = OverRanks(comm)
    aggregator = carrying(way, model, optimizer, **settings)
    if isinstance(aggregator, AllReduce):
        aggregator.use_buckets(buckets)
    everyone = deals(skew)
    sizes, own = [len(each.rows) for each in everyone], everyone[rank].rows
    for epoch in range(EPOCHS):
        for part in shard_batches(sizes, rank, BATCH, SEED, epoch):
            rows = own[part.rows]

            def loss(rows=rows) -> Tensor:
                if is_normed:
                    given = x[rows] if len(rows) else x[:1]
                    outputs = over_ranks.forward(lambda: model(given), is_present=len(rows) > 0)
                else:
                    outputs = model(x[rows])
                return functional.cross_entropy(outputs, y[rows]) if len(rows) else outputs.sum() * 0

            outcome = aggregator.step(loss if len(rows) or is_normed else None, weight(part), False)
            losses += outcome.losses
    losses += aggregator.settle()
    aggregator.close()
    return flat(model), torch.tensor(losses, dtype=torch.float64)


def parts_of_steps(skew: float = 0.0) -> list[tuple[list[Tensor], list[float]]]:
    """For every step, the rows and the weight of every rank."""
    everyone = deals(skew)
    sizes = [len(each.rows) for each in everyone]
    steps = []
    for epoch in range(EPOCHS):
        parts = [shard_batches(sizes, r, BATCH, SEED, epoch) for r in range(size)]
        for step in zip(*parts, strict=True):
            rows = [everyone[r].rows[part.rows] for r, part in enumerate(step)]
            steps.append((rows, [part.weight for part in step]))
    return steps


def alone(make=network, skew: float = 0.0) -> tuple[Tensor, Tensor]:
    """The same of one process that takes, at every step, what all ranks together take."""
    model, losses = make(), []
    step = plain_step(model, momentum(model.parameters()), functional.cross_entropy, x, y)
    for rows, _ in parts_of_steps(skew):
        losses.append(step(torch.cat(rows)))
    return flat(model), torch.cat(losses)


def in_turn(*, backwards: bool = False) -> Tensor:
    """One process that plays all ranks in turn, and adds in their order (or from the last to the first)."""
    replicas = [Replica(network(), learning_by(momentum)) for _ in range(size)]
    for rows, weights in parts_of_steps():
        for replica, own, weight in zip(replicas, rows, weights, strict=True):
            loss = (lambda m=replica.model, r=own: functional.cross_entropy(m(x[r]), y[r])) if len(own) else None
            replica.backward(loss, weight)
        total = torch.empty_like(replicas[0].gradient)
        parts = [replica.gradient for replica in replicas]
        add_in_order(parts[::-1] if backwards else parts, total)
        for replica in replicas:
            replica.gradient.copy_(total)
            replica.step()
    return flat(replicas[0].model)


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


def same_everywhere(weights: Tensor) -> bool:
    return all(torch.equal(each, weights) for each in comm.allgather(weights))


expected, expected_losses = alone()
assert len(expected_losses) >= 100
ways = [(way, {}) for way in (*SYNCHRONOUS, Plain)] + [("allreduce", {"buckets": 3})]
for way, how in ways:
    trained, losses = sharded(way, **how)
    assert distance(trained, expected) < TOLERANCE, (way, how, distance(trained, expected))
    assert distance(losses, expected_losses) < TOLERANCE, way
    assert same_everywhere(trained), f"{way}: the ranks do not agree"
    skewed, _ = sharded(way, skew=1.0, **how)
    assert distance(skewed, alone(skew=1.0)[0]) < TOLERANCE, (way, "skew")

# Breakage: the plain 1/M, where the parts are not of equal size.
for way in SYNCHRONOUS:
    broken, _ = sharded(way, lambda part: 1 / size)
    assert distance(broken, expected) > 1e-6, way

# `ordered` and `shared` bit for bit; breakage: another order of adding is another number.
for way in ("ordered", "shared"):
    trained, _ = sharded(way)
    assert torch.equal(trained, in_turn()), f"{way} is not one process that plays all ranks"
shared.UNDIVIDED = AS_IT_IS
assert torch.equal(sharded("shared")[0], in_turn()), "shared, not divided, is not one process that plays all ranks"
assert torch.equal(sharded("shared", make=normed)[0], sharded("ordered", make=normed)[0])
shared.UNDIVIDED = 0
# Ranks meet by MPI where a processor lets words be seen in another order than they were written in.
if size == 2:  # where ranks take turns, MPI's own meeting takes them a minute
    host.HAS_FUTEX, by_words = False, host.HAS_FUTEX
    assert torch.equal(sharded("shared")[0], in_turn()), "ranks that meet by MPI are not one process that plays all"
    host.HAS_FUTEX = by_words
if size > 2:
    assert not torch.equal(trained, in_turn(backwards=True))

# BatchNorm over all ranks is BatchNorm of one process; breakage: each rank by its own rows.
expected, _ = alone(normed)
for way in SYNCHRONOUS:
    trained, _ = sharded(way, make=normed)
    # A bias in front of BatchNorm has rounding for a gradient, so its own error does not matter.
    assert distance(trained, expected) < 1e-10, (way, distance(trained, expected))
broken, _ = (
    sharded("allreduce", make=normed, share=False) if min(map(len, parts_of_steps()[0][0])) > 1 else (None, None)
)
assert broken is None or distance(broken, expected) > 1e-6

# Local SGD that meets at every step is synchronous SGD; breakages: fewer meetings, an optimizer with a memory.
synchronous, losses = sharded("allreduce", optimizer=plain)
local, local_losses = sharded("local", optimizer=plain, sync_every=1)
assert distance(local, synchronous) < TOLERANCE
assert distance(local_losses, losses) < TOLERANCE
assert distance(sharded("local", optimizer=plain, sync_every=3)[0], synchronous) > 1e-6
diloco, _ = sharded("diloco", optimizer=plain, sync_every=1, outer_lr=1.0, outer_momentum=0.0)
assert distance(diloco, synchronous) < TOLERANCE
for way in ("local", "diloco"):
    trained, losses = sharded(way, sync_every=4)
    assert same_everywhere(trained), way
    assert len(losses) == len(expected_losses), way

# `async` loses no step and ends with the same weights everywhere; with a bound of 0 nobody is ahead.
for staleness in (0, 1, 3):
    trained, losses = sharded("async", staleness=staleness)
    assert same_everywhere(trained)
    assert torch.isfinite(trained).all()
    assert len(losses) == len(expected_losses)

# Two ranks never disagree on when to stop: the wish travels with the step.
for way in SYNCHRONOUS:
    model = network()
    aggregator = carrying(way, model)
    for wisher in (None, 0, size - 1):
        outcome = aggregator.step(lambda m=model: functional.cross_entropy(m(x), y), 1 / size, rank == wisher)
        assert outcome.stop is (wisher is not None), (way, wisher)

# A loss that is not finite on one rank is told of by its rank, on all.
if size > 1:
    for way in [each for each in AGGREGATORS if each != "async"]:  # which ends on that rank alone
        model = network()
        aggregator = carrying(way, model, sync_every=1)
        given = x * (np.nan if rank == 1 else 1)
        try:
            aggregator.step(lambda m=model, g=given: functional.cross_entropy(m(g), y), 1 / size, False)
        except ValueError as error:
            assert "rank 1" in str(error), str(error)
        else:
            raise AssertionError((way, rank))
