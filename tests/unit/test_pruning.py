"""Pruning in mid-training: what goes is what weighs least, and what is left trains on as if nothing had happened."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from cooptim_lab import Task
from cooptim_lab.comm.context import Context
from cooptim_lab.preparing.building import count_parameters
from cooptim_lab.subnets.finding import find_units
from cooptim_lab.subnets.pruning import Pruner, weigh
from cooptim_lab.training.planned import under_plan
from cooptim_lab.training.spec import Baseline
from cooptim_lab.ways import run_program
from tests.support import SoloComm, refused

pytestmark = pytest.mark.usefixtures("one_thread")

X = torch.randn(48, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > X[:, 1]).long() + (X[:, 2] > 0)
IMAGES = torch.randn(48, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
DEAD = 5
"""Units of the first hidden layer, of 16: the first of them."""


def perceptron():
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).double()


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(x + self.norm(self.inner(x))).mean((2, 3)))


def residual():
    return Residual().double()


def dead(model, first):
    """With the first units of its first layer never heard: nothing is learned of them either."""
    with torch.no_grad():
        model[0].weight[:first], model[0].bias[:first], model[2].weight[:, :first] = 0, 0, 0
    return model


def steps(model, optimizer, count, x=X):
    for _ in range(count):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), Y).backward()
        optimizer.step()


OPTIMIZERS = {
    "SGD": lambda ps: torch.optim.SGD(ps, 0.1, momentum=0.9),
    "Adam": lambda ps: torch.optim.Adam(ps, 0.01),
    "AdamW": lambda ps: torch.optim.AdamW(ps, 0.01),
    "Adagrad": lambda ps: torch.optim.Adagrad(ps, 0.05),
}


def pruned_of(model, optimizer, spared):
    """With `spared` of 16 units left in the first layer, the other layers whole."""
    pruner = Pruner(model, X[:2], count_parameters(model))
    pruner._sizes = [spared if layer.size == 16 else layer.size for layer in pruner._units.layers]
    return pruner.prune(optimizer)


class TestIdentity:
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_without_its_dead_units_it_trains_on_as_with_them(self, name):
        whole = dead(perceptron(), DEAD)
        optimizer = OPTIMIZERS[name](whole.parameters())
        steps(whole, optimizer, 5)
        other = copy.deepcopy(whole)
        others = OPTIMIZERS[name](other.parameters())
        others.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        pruned = pruned_of(other, others, 16 - DEAD)
        assert pruned[0].weight.shape == (16 - DEAD, 6)
        steps(whole, optimizer, 10)
        steps(pruned, others, 10)
        with torch.no_grad():
            torch.testing.assert_close(pruned(X), whole(X), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_an_optimizer_that_forgot_would_be_noticed(self, name):
        whole = dead(perceptron(), DEAD)
        optimizer = OPTIMIZERS[name](whole.parameters())
        steps(whole, optimizer, 5)
        other = copy.deepcopy(whole)
        pruned = pruned_of(other, OPTIMIZERS[name](other.parameters()), 16 - DEAD)
        forgetful = OPTIMIZERS[name](pruned.parameters())
        steps(whole, optimizer, 10)
        steps(pruned, forgetful, 10)
        with torch.no_grad():
            assert (pruned(X) - whole(X)).abs().max() > 1e-6

    def test_one_unit_too_many_would_be_noticed(self):
        whole = dead(perceptron(), DEAD)
        other = copy.deepcopy(whole)
        pruned = pruned_of(other, torch.optim.SGD(other.parameters(), 0.1), 16 - DEAD - 1)
        with torch.no_grad():
            assert (pruned(X) - whole(X)).abs().max() > 1e-6


class TestWeights:
    def test_of_a_perceptron_as_written_out(self):
        model = perceptron()
        by_name = dict(model.named_parameters())
        found = dict(
            zip(["first", "second"], sorted(weigh(find_units(model, X[:2])), key=len, reverse=True), strict=True)
        )
        first = by_name["0.weight"].square().sum(1) + by_name["0.bias"].square() + by_name["2.weight"].square().sum(0)
        second = by_name["2.weight"].square().sum(1) + by_name["2.bias"].square() + by_name["4.weight"].square().sum(0)
        torch.testing.assert_close(found["first"], first.detach())
        torch.testing.assert_close(found["second"], second.detach())

    def test_units_that_hang_together_weigh_together(self):
        model = residual()
        (found,) = weigh(find_units(model, IMAGES[:2]))
        parts = [
            model.stem.weight.square().sum((1, 2, 3)) + model.stem.bias.square(),
            model.inner.weight.square().sum((1, 2, 3)) + model.inner.weight.square().sum((0, 2, 3)),
            model.inner.bias.square() + model.norm.weight.square() + model.norm.bias.square(),
            model.head.weight.square().sum(0),
        ]
        torch.testing.assert_close(found, torch.stack(parts).sum(0).detach())

    def test_the_heaviest_stay(self):
        model = perceptron()
        pruned = pruned_of(model, torch.optim.SGD(model.parameters(), 0.1), 4)
        weights = next(each for each in weigh(find_units(model, X[:2])) if len(each) == 16)
        heaviest = weights.argsort(descending=True)[:4].sort().values
        assert torch.equal(pruned[0].weight, model[0].weight[heaviest])


class TestRefused:
    def test_an_optimizer_that_may_remember_more(self):
        model = perceptron()
        with refused("LBFGS", "leave prune out"):
            Pruner(model, X[:2], 50).prune(torch.optim.LBFGS(model.parameters()))

    def test_a_network_without_hidden_units(self):
        with refused("no hidden layer to prune"):
            Pruner(nn.Linear(6, 3).double(), X[:2], 10)


def trained(plan="", *, model=perceptron, data=(X, Y), **options):
    said = []
    spec = under_plan(Baseline(**{"epochs": 3, "batch": 16, "plan": plan, **options}))
    context = Context(SoloComm(), lambda *events: said.extend(events), lambda: False, threads=1)
    given = Task(model=model, data=tuple(map(np.asarray, data)), name="test", optimizer=OPTIMIZERS["Adam"])
    return run_program(context, given, spec)[0], [event.text for event in said if hasattr(event, "text")]


class TestTraining:
    @pytest.mark.parametrize(("model", "x"), [(perceptron, X), (residual, IMAGES)])
    def test_what_is_handed_over_has_that_share_of_the_parameters(self, model, x):
        (whole, _), (pruned, said) = (trained(plan, model=model, data=(x, Y)) for plan in ("", "prune=0.5"))
        assert 0.3 * whole.parameters < pruned.parameters <= 0.55 * whole.parameters
        assert (pruned.path[-1][2], pruned.path[-1][3]) == (pruned.loss, pruned.metric)
        assert len(pruned.path) == 3 and pruned.steps == whole.steps
        assert any(f"pruned from {whole.parameters:,} to {pruned.parameters:,}" in text for text in said)

    def test_the_first_epoch_is_the_whole_networks(self):
        (whole, _), (pruned, _) = (trained(plan) for plan in ("", "prune=0.5"))
        assert whole.path[0][2:] == pruned.path[0][2:]
        assert whole.path[1][2:] != pruned.path[1][2:]

    def test_where_the_goal_came_first_nothing_is_pruned(self):
        whole, said = trained("prune=0.5", until=0.01)
        assert whole.parameters == count_parameters(perceptron())
        assert not any("pruned" in text for text in said)

    def test_beside_other_levers(self):
        pruned, _ = trained("prune=0.5,batch=24,fused")
        assert pruned.parameters < count_parameters(perceptron())
