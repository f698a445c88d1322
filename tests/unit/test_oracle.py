"""A part computes what the network does with its other units dead, or the cut is refused: identity 12, and cases G."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from cooptim_lab import InputError, Task
from cooptim_lab.comm.context import Context
from cooptim_lab.programs import train_subnets
from cooptim_lab.subnets import oracle
from cooptim_lab.subnets.finding import find_units
from cooptim_lab.subnets.fuse import FUSIONS
from cooptim_lab.subnets.oracle import find_mixed
from cooptim_lab.subnets.split import divide
from cooptim_lab.training.spec import Subnets
from tests.networks import NETWORKS, make
from tests.support import SoloComm, refused

pytestmark = pytest.mark.usefixtures("one_thread")

X = torch.randn(60, 16, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0)


class Between(nn.Module):
    """Something between two layers of 64 hidden units."""

    def __init__(self, function, taken=64):
        super().__init__()
        self.first, self.last = nn.Linear(16, 64), nn.Linear(taken, 3)
        self.function = function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


def shuffle(h):
    return h.view(len(h), 4, -1).transpose(1, 2).flatten(1)


MIXED = {
    "channel shuffle": shuffle,
    "flip": lambda h: h.flip(1),
    "roll": lambda h: h.roll(1, 1),
    "softmax over units": lambda h: h.softmax(1),
    "cumulative sum": lambda h: h.cumsum(1),
    "the largest is taken away": lambda h: h.relu() - h.relu().amax(1, keepdim=True),
    "normalised by hand": lambda h: h / h.square().mean(1, keepdim=True).sqrt(),
    "pooled over units": lambda h: functional.avg_pool1d(h, 3, 1, 1),
}
EXACT = {
    "activation": torch.relu,
    "scaled": lambda h: 3 * h.sigmoid() + 1,
    "dropout": lambda h: functional.dropout(h, 0.5, training=False),
    "gated": lambda h: h * h.sigmoid(),
}


def task_of(model):
    return Task(model=model, data=(X, Y), name="test")


@pytest.mark.parametrize("function", MIXED.values(), ids=MIXED)
def test_units_that_mean_something_else_in_a_part_are_found(function):
    task = task_of(Between(function))
    with refused("other units dead", "layer first", "define subnet(i) in the task", "replicas"):
        divide(task, X[:2], 2, split="neurons", seed=0)
    division = divide(task, X[:2], 2, split="replicas", seed=0)
    assert division.mixed == "layer first"
    with refused("fuse = merge", "layer first", "fuse mean"):
        FUSIONS["merge"](division.make(), division, [0, 1])


@pytest.mark.parametrize("function", EXACT.values(), ids=EXACT)
def test_what_treats_every_unit_alike_is_exact(function):
    for split in ("neurons", "replicas"):
        assert divide(task_of(Between(function)), X[:2], 3, split=split, seed=0).mixed == ""


@pytest.mark.parametrize("name", NETWORKS)
def test_every_make_of_network(name):
    """Attention that is written out has as many heads in a part, of fewer units each: another network."""
    model, x = make(name)
    units = find_units(model, x)
    assert (find_mixed(units, units.deal(2), x) != "") == (name == "words")


def test_a_weight_that_is_zero_hides_nothing():
    """As the last layer of many a network is, at first."""
    model = Between(MIXED["flip"])
    nn.init.zeros_(model.last.weight)
    units = find_units(model, X[:2])
    assert find_mixed(units, units.deal(2), X[:2]) == "layer first"


def test_breakage_weights_that_are_not_moved_hide_it(monkeypatch):
    monkeypatch.setattr(oracle, "MOVED", 0.0)
    test = Between(MIXED["flip"])
    nn.init.zeros_(test.last.weight)
    units = find_units(test, X[:2])
    assert find_mixed(units, units.deal(2), X[:2]) == ""


def test_breakage_dead_units_that_are_still_taken(monkeypatch):
    """Then no part computes what the network does."""
    monkeypatch.setattr(oracle, "_takers", lambda units: {})
    units = find_units(Between(torch.relu), X[:2])
    assert find_mixed(units, units.deal(2), X[:2]) != ""


def test_breakage_a_norm_with_its_statistics_is_not_exact(monkeypatch):
    model, x = make("transformer")
    units = find_units(model, x)
    assert find_mixed(units, units.deal(2), x) == ""
    monkeypatch.setattr(oracle, "_norms", lambda units: [])
    assert find_mixed(units, units.deal(2), x) != ""


def test_behind_a_norm_a_shuffle_is_still_found():
    model = nn.Sequential(nn.Linear(16, 64), nn.LayerNorm(64), Shuffled(), nn.Linear(64, 3))
    units = find_units(model, X[:2])
    assert find_mixed(units, units.deal(2), X[:2]) != ""


class Shuffled(nn.Module):
    def forward(self, x):
        return shuffle(x)


class Einsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(16, 64), nn.Parameter(torch.randn(64, 32)), nn.Linear(32, 3)

    def forward(self, x):
        return self.last(torch.einsum("bi,ij->bj", self.first(x).relu(), self.middle))


def pixel_shuffle():
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 16, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(4, 8, 3),
        nn.Flatten(), nn.Linear(8 * 36, 3),
    )  # fmt: skip


SHAPED = {
    "GLU": lambda: nn.Sequential(nn.Linear(16, 64), nn.GLU(1), nn.Linear(32, 3)),
    "GLU by hand": lambda: Between(lambda h: h.chunk(2, 1)[0] * h.chunk(2, 1)[1].sigmoid(), 32),
    "halves added": lambda: Between(lambda h: h[:, :32] + h[:, 32:], 32),
    "PixelShuffle": pixel_shuffle,
    "einsum": Einsum,
    "maxout": lambda: Between(lambda h: h.view(len(h), 32, 2).amax(2), 32),
}


@pytest.mark.parametrize("split", ["replicas", "neurons"])
@pytest.mark.parametrize("kind", SHAPED.values(), ids=SHAPED)
def test_what_no_rule_fits_is_exact_or_refused_in_one_line(kind, split):
    try:
        division = divide(task_of(kind()), X[:2], 2, split=split, seed=0)
    except InputError as error:
        assert "define subnet(i)" in str(error)
        assert "\n" not in str(error)
    else:
        assert split == "replicas" or division.mixed == ""
        assert division.make()[0](X[:5]).shape == (5, 3)


class Joining(nn.Module):
    """A layer that joins after some steps."""

    def __init__(self, after=3):
        super().__init__()
        self.first, self.extra, self.last = nn.Linear(16, 64), nn.Linear(64, 64), nn.Linear(64, 3)
        self.steps, self.after = 0, after

    def forward(self, x):
        h = self.first(x).relu()
        if self.training:
            self.steps += 1
        if self.steps > self.after:
            h = self.extra(h).relu()
        return self.last(h)


class Branching(Joining):
    """One of two layers, by the data."""

    def forward(self, x):
        h = self.first(x).relu()
        return self.last(self.extra(h) if x.mean() > 100 else h)


@pytest.mark.parametrize("kind", [Joining, Branching])
def test_a_layer_that_is_not_reached_is_named_before_the_clock(kind):
    with refused("layer extra", "takes no part", "define subnet(i)"):
        divide(task_of(kind()), X[:2], 2, split="neurons", seed=0)


class Backbone(nn.Module):
    """Runs a part without gradient, as a frozen one often is."""

    def __init__(self):
        super().__init__()
        self.back, self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 64), nn.Linear(64, 3)
        self.back.requires_grad_(False)

    def forward(self, x):
        with torch.no_grad():
            x = self.back(x).tanh()
        return self.last(self.first(x).relu())


def test_a_backbone_without_gradient_is_left_whole():
    division = divide(task_of(Backbone()), X[:2], 2, split="neurons", seed=0)
    part = division.make()[0]
    assert (part.back.out_features, part.first.out_features) == (16, 32)


class Closing(nn.Module):
    """Calls its layers through functions that it keeps."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(16, 64), nn.Linear(64, 3)
        self.call = lambda x: self.last(self.first(x).relu())

    def forward(self, x):
        return self.call(x)


class Counting(nn.Module):
    """Its outputs depend on an attribute that training changes, and that is no buffer."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.mean = nn.Linear(16, 64), nn.Linear(64, 3), torch.zeros(16)

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + x.detach().mean(0) + 1
        return self.last(self.first(x - self.mean).relu())


def run(task, **options):
    events = []
    spec = Subnets(**{"subnets": 2, "epochs": 1, "batch": 16, **options})
    return train_subnets(Context(SoloComm(), lambda *new: events.extend(new), lambda: False, threads=1), task, spec)


@pytest.mark.parametrize("engine", ["stacked", "separate"])
def test_closures_come_along(engine):
    result = run(task_of(Closing()), engine=engine, split="neurons", fuse="merge")
    network = result.network
    with torch.no_grad():
        before = network(X)
        network.first.weight.zero_()
        network.first.bias.zero_()
        assert (network(X) - before).abs().max() > 1e-3  # it computes with its own


@pytest.mark.parametrize("engine", ["stacked", "separate"])
def test_what_would_not_be_handed_over_is_refused(engine):
    with refused("register_buffer"):
        run(task_of(Counting()), engine=engine)


class Keeping(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(16, 64), nn.Linear(64, 3)
        self.register_buffer("seen", None)

    def forward(self, x):
        h = self.first(x).relu()
        self.seen = h.detach()
        return self.last(h)


@pytest.mark.parametrize("own", [None, lambda i: Keeping()])
def test_a_buffer_that_comes_into_being_is_one_line(own):
    model = Keeping() if own is None else nn.Linear(16, 3)
    with refused("seen", "register"):
        run(Task(model=model, data=(X, Y), subnet=own, name="test"))


def test_what_is_scored_is_what_is_handed_out_whatever_subnet_i_draws():
    """numpy's and Python's generators are seeded, and `subnet(i)` is asked once."""
    import random

    import numpy as np

    calls = []

    class Drawn(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = torch.tensor(np.random.randn(16) + random.random(), dtype=torch.float32)
            self.last = nn.Linear(16, 3)

        def forward(self, x):
            return self.last(x + self.shift)

    def subnet(i):
        calls.append(i)
        return Drawn()

    task = Task(model=nn.Linear(16, 3), data=(X, Y), subnet=subnet, name="test")
    one, other = run(task, engine="separate"), run(task, engine="separate")
    assert calls == [0, 1] * 2
    assert (one.loss, one.metric) == (other.loss, other.metric)
    assert torch.equal(one.subnets[0].shift, other.subnets[0].shift)
    assert not torch.equal(one.subnets[0].shift, one.subnets[1].shift)
