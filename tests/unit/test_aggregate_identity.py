"""The gradient of the sharded loss is the gradient of the whole, when shards are weighted by their size. In float64.

One rank at a time, without MPI; tests/mpi/prog_*.py have the rest.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from cooptim_lab import Task
from cooptim_lab.comm.timeline import Timeline
from cooptim_lab.shards.aggregate import AGGREGATORS, Replica, Settings, make_aggregator, make_place
from cooptim_lab.shards.aggregate.replica import CONTROL
from cooptim_lab.training.cutting import shard
from tests.support import SoloComm, learning_by, refused

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = 47
X = torch.randn(ROWS, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > X[:, 1]).long()
UNEQUAL = [range(30), range(30, 40), range(40, 40), range(40, 47)]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def alone(way, model, optimizer=sgd, **settings):
    """An aggregator of one rank."""
    timeline = Timeline(SoloComm())
    replica = Replica(model, learning_by(optimizer), place=make_place(way, SoloComm(), timeline))
    return make_aggregator(way, SoloComm(), replica, Settings(**settings), timeline)


def whole():
    """The gradient of all rows in one process."""
    model = network()
    functional.cross_entropy(model(X), Y).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def summed(parts, weights):
    """The same from shards: each rank's weighted gradient, added up."""
    total = 0
    for rows, weight in zip(parts, weights, strict=True):
        replica = Replica(network(), learning_by(sgd))
        loss = (lambda m=replica.model, r=rows: functional.cross_entropy(m(X[r]), Y[r])) if len(rows) else None
        replica.backward(loss, weight)
        total = total + replica.gradient[:-CONTROL]
    return total


@pytest.mark.parametrize("parts", [UNEQUAL, *([shard(ROWS, m, r) for r in range(m)] for m in (1, 2, 4, 47))])
def test_the_sharded_gradient_is_the_gradient_of_the_whole(parts):
    weights = [len(part) / ROWS for part in parts]
    assert (summed(parts, weights) - whole()).abs().max() < 1e-14


def test_breakage_plain_one_over_m_is_wrong_for_unequal_shards():
    error = (summed(UNEQUAL, [1 / 4] * 4) - whole()).abs().max()
    assert error / whole().abs().max() > 0.05


@pytest.mark.parametrize("way", AGGREGATORS)
@pytest.mark.parametrize("optimizer", [sgd, torch.optim.Adam, torch.optim.Adafactor], ids=["sgd", "adam", "adafactor"])
def test_one_rank_is_the_plain_loop(way, optimizer):
    model, plain = network(), network()
    aggregator = alone(way, model, optimizer, sync_every=1, outer_lr=1.0, outer_momentum=0.0)
    theirs = optimizer(plain.parameters())
    for _ in range(30):
        outcome = aggregator.step(lambda: functional.cross_entropy(model(X), Y), 1.0, False)
        theirs.zero_grad()
        loss = functional.cross_entropy(plain(X), Y)
        loss.backward()
        theirs.step()
        assert abs(outcome.losses[0] - loss.item()) < 1e-14
    assert all((a - b).abs().max() < 1e-13 for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_settings_by_parameter_are_kept():
    """An optimizer that treats groups of parameters differently is not given them as one."""
    model, plain = network(), network()

    def decaying(parameters):
        parameters = list(parameters)
        groups = [
            {"params": [p for p in parameters if p.dim() > 1]},
            {"params": [p for p in parameters if p.dim() == 1]},
        ]
        return torch.optim.SGD([{**groups[0], "weight_decay": 0.5}, groups[1]], lr=0.1)

    aggregator, theirs = alone("allreduce", model, decaying), decaying(plain.parameters())
    for _ in range(5):
        aggregator.step(lambda: functional.cross_entropy(model(X), Y), 1.0, False)
        theirs.zero_grad()
        functional.cross_entropy(plain(X), Y).backward()
        theirs.step()
    assert all((a - b).abs().max() < 1e-14 for a, b in zip(model.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("way", ["server", "allreduce", "ordered"])
def test_the_wish_to_stop_travels_with_the_step(way):
    model = network()
    aggregator = alone(way, model)
    wishes = (False, True, False)
    heard = [aggregator.step(lambda: functional.cross_entropy(model(X), Y), 1.0, wish).stop for wish in wishes]
    assert heard == [False, True, False]


def test_frozen_parameters_are_neither_sent_nor_changed():
    model = network()
    model[0].weight.requires_grad_(False)
    before = copy.deepcopy(model)
    server = alone("server", model)
    assert server.replica.count == 5 + 10 + 2
    server.step(lambda: functional.cross_entropy(model(X), Y), 1.0, False)
    assert torch.equal(model[0].weight, before[0].weight)
    assert not torch.equal(model[2].weight, before[2].weight)


@pytest.mark.parametrize(
    ("types", "said"),
    [((torch.float32, torch.float64), "float32, float64"), ((torch.bfloat16,) * 2, "bfloat16")],
)
def test_numbers_that_mpi_does_not_add_are_refused(types, said):
    with refused(said, "all the same"):
        Replica(nn.Sequential(*(nn.Linear(2, 2, dtype=each) for each in types)), learning_by(sgd))


@pytest.mark.parametrize("way", AGGREGATORS)
def test_a_loss_that_is_not_finite_is_refused(way):
    model = network()
    with refused("not finite" if way == "async" else "no longer finite", "learning rate"):
        alone(way, model, sync_every=1).step(lambda: functional.cross_entropy(model(X * float("inf")), Y), 1.0, False)


def test_diloco_is_local_where_the_outer_step_is_the_mean_itself():
    """Identity with one rank: the outer step goes where the inner ones went; its breakage is momentum."""

    def trained(way, **settings):
        model = network()
        aggregator = alone(way, model, sync_every=3, **settings)
        for _ in range(12):
            aggregator.step(lambda: functional.cross_entropy(model(X), Y), 1.0, False)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    local = trained("local")
    assert (trained("diloco", outer_lr=1.0, outer_momentum=0.0) - local).abs().max() < 1e-14
    assert (trained("diloco", outer_lr=0.7, outer_momentum=0.9) - local).abs().max() > 1e-3


def test_a_rank_without_rows_has_the_rate_of_the_others():
    given = Task(
        model=network, data=(X, Y), optimizer=sgd,
        scheduler=lambda o, steps: torch.optim.lr_scheduler.LambdaLR(o, lambda k: 1 / (1 + k)),
    )  # fmt: skip
    replica = Replica(network(), given, 4)
    local = make_aggregator("local", SoloComm(), replica, Settings(), Timeline(SoloComm()))
    rate = replica.optimizer.param_groups[0]["lr"]
    local.step(None, 0.0, False)
    assert replica.optimizer.param_groups[0]["lr"] == rate / 2


def test_the_outer_step_is_torchs_own():
    model = network()
    aggregator = alone("diloco", model, sync_every=2, outer_lr=0.5, outer_momentum=0.8)
    outer = torch.nn.Parameter(aggregator.replica.weights[: aggregator.replica.count].detach().clone())
    theirs = torch.optim.SGD([outer], lr=0.5, momentum=0.8, nesterov=True)
    inner = copy.deepcopy(model)
    optimizer = sgd(inner.parameters())
    for step in range(8):
        aggregator.step(lambda: functional.cross_entropy(model(X), Y), 1.0, False)
        optimizer.zero_grad()
        functional.cross_entropy(inner(X), Y).backward()
        optimizer.step()
        if step % 2:
            outer.grad = outer.detach() - nn.utils.parameters_to_vector(inner.parameters()).detach()
            theirs.step()
            nn.utils.vector_to_parameters(outer.detach().clone(), inner.parameters())
    found = nn.utils.parameters_to_vector(model.parameters())
    assert (found - outer).abs().max() < 1e-13


class Doubled:
    """A user's own way."""

    def aggregate(self, comm, gradient):
        gradient *= 2


class Returns:
    def aggregate(self, comm, gradient):
        return gradient


def test_a_users_own_way():
    model, plain = network(), network()
    alone(Doubled, model).step(lambda: functional.cross_entropy(model(X), Y), 1.0, False)
    alone("allreduce", plain).step(lambda: 2 * functional.cross_entropy(plain(X), Y), 1.0, False)
    assert all((a - b).abs().max() < 1e-14 for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    with refused("Returns.aggregate returned a ndarray", "in place"):
        alone(Returns, model).step(lambda: functional.cross_entropy(model(X), Y), 1.0, False)
