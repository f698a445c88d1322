"""A parameter that no row of a batch reaches is left as it is, whenever that happens first: as in one process."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from cooptim_lab.comm.timeline import Timeline
from cooptim_lab.preparing.optimizers import ELEMENTWISE_OPTIMIZERS
from cooptim_lab.shards.aggregate import Replica, Settings, make_aggregator
from cooptim_lab.shards.compression import make_compression
from tests.support import SoloComm, learning_by

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = 24
X = torch.randn(ROWS, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > X[:, 1]).long()


class Leaving(nn.Module):
    """A layer of it is used in some steps only, the first `always` of them among these."""

    def __init__(self, always=4):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.empty = nn.Linear(6, 2), nn.Linear(6, 2), nn.Parameter(torch.zeros(0, 3))
        self.steps, self.always = 0, always
        self.double()

    def forward(self, x):
        self.steps += 1
        out = self.a(x)
        return out + self.b(x) if self.steps <= self.always or self.steps % 3 == 0 else out


def by_groups(parameters):
    given = list(parameters)
    return torch.optim.AdamW([{"params": given[:2], "weight_decay": 0.3}, {"params": given[2:]}], lr=0.05)


def made(kind):
    decay = {} if kind is torch.optim.Rprop else {"weight_decay": 0.1}
    momentum = {"momentum": 0.9} if kind in (torch.optim.SGD, torch.optim.RMSprop) else {}
    return lambda parameters: kind(parameters, lr=0.05, **decay, **momentum)


OPTIMIZERS = {kind.__name__: made(kind) for kind in ELEMENTWISE_OPTIMIZERS}
OPTIMIZERS["by groups"] = by_groups
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def plain(optimizer, steps, always=4):
    """One process."""
    model = Leaving(always)
    theirs = optimizer(model.parameters())
    for _ in range(steps):
        theirs.zero_grad()
        functional.cross_entropy(model(X), Y).backward()
        theirs.step()
    return model


def aggregator_of(model, optimizer, way="allreduce", *, tells=False, **settings):
    replica = Replica(model, learning_by(optimizer), tells=tells)
    return make_aggregator(way, SoloComm(), replica, Settings(**settings), Timeline(SoloComm()))


def go(aggregator, steps):
    model = aggregator.replica.model
    for _ in range(steps):
        aggregator.step(lambda: functional.cross_entropy(model(X), Y), 1.0, False)


def distance(one, other):
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs if len(a))


@every_optimizer
@pytest.mark.parametrize("always", [0, 4, 30], ids=["from the first step on", "later", "never"])
def test_a_step_that_leaves_a_parameter_untouched_is_that_of_one_process(optimizer, always):
    model = Leaving(always)
    go(aggregator_of(model, optimizer), 20)
    assert distance(model, plain(optimizer, 20, always)) < 1e-13


@every_optimizer
def test_breakage_a_gradient_of_zero_is_another_step(optimizer, monkeypatch):
    monkeypatch.setattr(Replica, "untouched", lambda self: [])
    model = Leaving()
    go(aggregator_of(model, optimizer), 20)
    moved = distance(model, plain(optimizer, 20))
    assert moved > 1e-6


@pytest.mark.parametrize("way", ["server", "ordered", "local", "diloco", "async"])
def test_in_every_way(way):
    optimizer, model = OPTIMIZERS["AdamW"], Leaving()
    go(aggregator_of(model, optimizer, way, sync_every=1, outer_lr=1.0, outer_momentum=0.0), 20)
    assert distance(model, plain(optimizer, 20)) < 1e-13


class Plain:
    """A user's own, which loses the sign of 0."""

    def aggregate(self, comm, gradient):
        gradient[:] = sum([gradient.copy()])


@pytest.mark.parametrize("way", ["allreduce", "server", Plain])
def test_where_the_sign_of_zero_is_lost_on_the_way(way):
    optimizer, model = OPTIMIZERS["AdamW"], Leaving()
    compression = None if way is Plain else make_compression("topk", 1.0, [p.shape for p in model.parameters()], 0)
    go(aggregator_of(model, optimizer, way, tells=True, compression=compression), 20)
    assert distance(model, plain(optimizer, 20)) < (1e-13 if way is Plain else 1e-5)


@pytest.mark.parametrize("first", [3, 6], ids=["before", "after"])
def test_a_checkpoint_before_and_after(first):
    optimizer = OPTIMIZERS["AdamW"]
    one = aggregator_of(Leaving(), optimizer)
    go(one, first)
    model = Leaving()
    two = aggregator_of(model, optimizer)
    two.replica.load(one.replica.state())
    two.replica.weights.data.copy_(one.replica.weights)
    model.steps = first
    go(two, 20 - first)
    assert distance(model, plain(optimizer, 20)) < 1e-13


def test_a_gradient_of_exact_zeros_is_a_gradient():
    """Of a layer behind units that are all dead, say: momentum and decay go on, as in one process."""
    optimizer, model = OPTIMIZERS["AdamW"], Leaving()

    def loss(of):
        return functional.cross_entropy(of(X), Y) * (of.steps % 2)

    theirs = Leaving()
    plain_optimizer = optimizer(theirs.parameters())
    aggregator = aggregator_of(model, optimizer)
    for _ in range(4):
        aggregator.step(lambda: loss(model), 1.0, False)
        plain_optimizer.zero_grad()
        loss(theirs).backward()
        plain_optimizer.step()
    assert distance(model, theirs) < 1e-13
