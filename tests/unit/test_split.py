"""One network becomes N small ones: widths, seeds, and what cannot be narrowed."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from cooptim_lab import Task
from cooptim_lab.subnets.split import divide
from tests.support import refused


def perceptron(*widths, activation=nn.ReLU, **options):
    layers = []
    for width_in, width_out in itertools.pairwise(widths):
        layers += [nn.Linear(width_in, width_out, **options), activation()]
    return nn.Sequential(*layers[:-1])


def task(model, subnet=None):
    return Task(model=model, data=([[0.0] * 6] * 4, [0] * 4), subnet=subnet)


def make_subnets(task, subnets, seed, which=None, split="replicas"):
    return divide(task, torch.zeros(2, 6), subnets, split=split, seed=seed).make(which)


def hidden_widths(subnet):
    return [layer.out_features for layer in subnet.modules() if isinstance(layer, nn.Linear)][:-1]


def weights(subnets):
    return [p for subnet in subnets for p in subnet.parameters()]


@pytest.mark.parametrize("subnets", range(1, 8))
def test_the_subnets_have_as_many_hidden_units_as_the_network(subnets):
    made = make_subnets(task(perceptron(6, 12, 7, 3)), subnets, seed=0)
    widths = [hidden_widths(subnet) for subnet in made]
    assert [sum(layer) for layer in zip(*widths, strict=True)] == [12, 7]
    assert all(max(layer) - min(layer) <= 1 for layer in zip(*widths, strict=True))
    assert all(subnet(torch.zeros(5, 6)).shape == (5, 3) for subnet in made)


@pytest.mark.parametrize("subnets", [8, 12, 100])
def test_more_subnets_than_the_narrowest_layer_has_units_are_refused(subnets):
    with refused(f"subnets = {subnets}", "has 7 units", "at most 7"):
        make_subnets(task(perceptron(6, 12, 7, 3)), subnets, seed=0)


def test_subnet_i_depends_on_the_seed_and_on_i_alone():
    def make(seed, which=None):
        return make_subnets(task(perceptron(6, 8, 3)), 4, seed, which)

    everyone = make(0)
    assert all(torch.equal(a, b) for a, b in zip(weights(make(0, range(2, 4))), weights(everyone[2:]), strict=True))
    for one, other in [(everyone[0], everyone[1]), (everyone[0], make(1)[0])]:
        assert not torch.equal(one[0].weight, other[0].weight)


def test_the_model_is_left_as_it_is():
    model = perceptron(6, 8, 3)
    before = [p.clone() for p in model.parameters()]
    make_subnets(task(model), 2, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_what_is_no_width_stays():
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(6, 8, bias=False, dtype=torch.float64), nn.LeakyReLU(0.3), nn.Dropout(0.25),
        nn.Sequential(nn.Linear(8, 4, dtype=torch.float64), nn.Tanh()), nn.Linear(4, 3, dtype=torch.float64),
    )  # fmt: skip
    made = divide(task(model), torch.zeros(2, 2, 3, dtype=torch.float64), 2, split="replicas", seed=0).make()[0]
    kinds = [nn.Flatten, nn.Linear, nn.LeakyReLU, nn.Dropout, nn.Sequential, nn.Linear]
    assert [type(layer) for layer in made] == kinds
    assert (made[1].bias, made[2].negative_slope, made[3].p) == (None, 0.3, 0.25)
    assert {p.dtype for p in made.parameters()} == {torch.float64}
    assert hidden_widths(made) == [4, 2]


def test_a_layer_that_is_used_twice_stays_in_both_places():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(6, 8), relu, nn.Linear(8, 4), relu, nn.Linear(4, 3))
    made = make_subnets(task(model), 2, seed=0)[0]
    assert [type(layer) for layer in made] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]


def test_one_subnet_is_as_wide_as_the_network():
    assert hidden_widths(make_subnets(task(perceptron(6, 12, 7, 3)), 1, seed=0)[0]) == [12, 7]


class Own(nn.Module):
    """A user's own network."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        return self.linear(x)


class Tied(nn.Module):
    """Uses one weight twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.last(self.second(torch.relu(self.first(x))))


class Fixed(nn.Module):
    """Has its width written into its forward."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)).view(-1, 8))


class Recurrent(nn.Module):
    """A layer that has no rule."""

    def __init__(self):
        super().__init__()
        self.memory, self.last = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.memory(x.view(-1, 2, 3))[0][:, -1])


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Sequential(nn.Linear(6, 3)), ("no hidden layer",)),
        (nn.Linear(6, 3), ("no hidden layer",)),
        (Own(), ("no hidden layer",)),
        (Tied(), ("first.weight", "second.weight", "the same")),
        (Fixed(), ("does not run",)),
        (Recurrent(), ("layer memory", "LSTM")),
        (
            nn.Sequential(nn.Unflatten(1, (6, 1)), nn.Conv1d(6, 8, 1, groups=2), nn.Flatten(), nn.Linear(8, 3)),
            ("layer 1", "convolution of 2 groups"),
        ),
    ],
)
@pytest.mark.parametrize("split", ["replicas", "neurons"])
def test_what_cannot_be_split_is_named_and_a_way_out_is_offered(model, said, split):
    with refused(*said, "define subnet(i)"):
        make_subnets(task(model), 2, seed=0, split=split)


def test_neurons_are_the_models_own_and_subnet_i_is_not():
    with refused("split = neurons", "leave subnet(i) out"):
        make_subnets(task(Own(), lambda i: nn.Linear(6, 3)), 2, seed=0, split="neurons")


def test_the_users_own_subnets_are_used():
    made = make_subnets(task(Own(), lambda i: nn.Linear(6, 10 + i).eval()), 3, seed=0)
    assert [subnet.out_features for subnet in made] == [10, 11, 12]
    assert all(subnet.training for subnet in made)


def test_the_users_own_subnets_are_seeded_by_their_number():
    def make(which):
        return weights(make_subnets(task(Own(), lambda i: nn.Linear(6, 3)), 3, 0, which))

    assert torch.equal(make(range(3))[4], make(range(2, 3))[0])
    assert not torch.equal(make(range(3))[0], make(range(3))[2])


def test_a_subnet_that_is_no_module_is_refused():
    with refused("subnet(1)", "returned a int", "nn.Module"):
        make_subnets(task(Own(), lambda i: 3 if i else nn.Linear(6, 3)), 2, seed=0)


@pytest.mark.parametrize("seed", [20261123, 2**62, 2**63 - 1])
def test_any_seed_will_do(seed):
    assert len(make_subnets(task(perceptron(6, 8, 3)), 2, seed)) == 2
