"""The gradient of the sharded loss is the gradient of the whole, when shards are weighted by their size. In float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from cooptim_lab.training.aggregate import AGGREGATORS, Aggregator, Server
from cooptim_lab.training.shards import shard
from tests.support import SoloComm, refused

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = 47
X = torch.randn(ROWS, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > X[:, 1]).long()


class Alone(Aggregator):
    """A rank whose sum is its own part: what it would send stays in `flat`."""

    def exchange(self):
        pass


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double()


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def whole():
    """[gradient..., loss] of all rows in one process."""
    model = network()
    loss = functional.cross_entropy(model(X), Y)
    loss.backward()
    return torch.cat([*(p.grad.flatten() for p in model.parameters()), loss.detach().reshape(1)])


def summed(parts, weights):
    """The same from shards: each rank's flat buffer, added up."""
    total = 0
    for rows, weight in zip(parts, weights, strict=True):
        model = network()
        aggregator = Alone(SoloComm(), model, sgd(model))
        if len(rows):
            aggregator.step(lambda m=model, r=rows: functional.cross_entropy(m(X[r]), Y[r]), weight, False)
        else:
            aggregator.step(None, weight, False)
        total = total + aggregator.flat[:-1]
    return total


UNEQUAL = [range(30), range(30, 40), range(40, 40), range(40, 47)]


@pytest.mark.parametrize("parts", [UNEQUAL, *([shard(ROWS, m, r) for r in range(m)] for m in (1, 2, 4, 47))])
def test_the_sharded_gradient_is_the_gradient_of_the_whole(parts):
    weights = [len(part) / ROWS for part in parts]
    assert (summed(parts, weights) - whole()).abs().max() < 1e-14


def test_breakage_plain_one_over_m_is_wrong_for_unequal_shards():
    error = (summed(UNEQUAL, [1 / 4] * 4) - whole()).abs().max()
    assert error / whole().abs().max() > 0.05


def test_one_rank_with_a_server_is_the_plain_loop():
    model, plain = network(), network()
    server, optimizer = Server(SoloComm(), model, sgd(model)), sgd(plain)
    for _ in range(30):
        value, _ = server.step(lambda: functional.cross_entropy(model(X), Y), 1.0, False)
        optimizer.zero_grad()
        loss = functional.cross_entropy(plain(X), Y)
        loss.backward()
        optimizer.step()
        assert abs(float(value) - loss.item()) < 1e-14
    assert all((a - b).abs().max() < 1e-14 for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_the_wish_to_stop_travels_with_the_step():
    model = network()
    server = Server(SoloComm(), model, sgd(model))
    loss = functional.cross_entropy
    assert [server.step(lambda: loss(model(X), Y), 1.0, wish)[1] for wish in (False, True, False)] == [
        False,
        True,
        False,
    ]


def test_frozen_parameters_are_neither_sent_nor_changed():
    model = network()
    model[0].weight.requires_grad_(False)
    before = copy.deepcopy(model)
    server = Server(SoloComm(), model, torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1))
    assert server.count == 5 + 10 + 2
    server.step(lambda: functional.cross_entropy(model(X), Y), 1.0, False)
    assert torch.equal(model[0].weight, before[0].weight)
    assert not torch.equal(model[2].weight, before[2].weight)


@pytest.mark.parametrize("kind", AGGREGATORS.values(), ids=AGGREGATORS)
@pytest.mark.parametrize(
    ("types", "said"),
    [((torch.float32, torch.float64), "float32, float64"), ((torch.bfloat16,) * 2, "bfloat16")],
)
def test_numbers_that_mpi_does_not_add_are_refused(kind, types, said):
    model = nn.Sequential(*(nn.Linear(2, 2, dtype=each) for each in types))
    with refused(said, "all the same"):
        kind(SoloComm(), model, sgd(model))
