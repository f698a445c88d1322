"""Optimizers, schedules and bounds of the way `subnets`: each subnet is treated as the plain loop does. Cases E."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from torch import nn

from cooptim_lab.preparing.prepare import prepare
from cooptim_lab.programs import train_baseline
from cooptim_lab.subnets.engines import updating
from cooptim_lab.subnets.trainer import Trainer
from cooptim_lab.training.spec import Baseline
from tests.networks import make
from tests.plain import DECAYING, EXACT, SCHEDULES, alone, by_dimensions, distance, run, some_with_momentum, task
from tests.support import refused

pytestmark = pytest.mark.usefixtures("one_thread")


def by_size(parameters):
    return torch.optim.SGD([{"params": [p], "lr": 0.5 / p.numel() ** 0.5} for p in parameters], lr=0.1, momentum=0.9)


def by_name(pairs):
    biases = [p for name, p in pairs if name.endswith("bias")]
    others = [p for name, p in pairs if not name.endswith("bias")]
    return torch.optim.Adam([{"params": others, "lr": 0.01}, {"params": biases, "lr": 0.1}], weight_decay=0.1)


def only_weights(pairs):
    return torch.optim.SGD([p for name, p in pairs if name.endswith("weight")], lr=0.1)


OPTIMIZERS = {
    "groups by dimensions": {"optimizer": by_dimensions},
    "groups by size": {"optimizer": by_size},
    "momentum for some": {"optimizer": some_with_momentum},
    "groups by name": {"named": by_name},
    "some are left out": {"named": only_weights},
}
ENGINES = {"perceptron": "grouped", "convolutional": "channels", "residual": "vmap"}


@pytest.mark.parametrize("engine", ["stacked", "separate"])
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("how", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_groups_are_those_of_one_subnet(how, name, engine):
    given = task(model=make(name)[0], **how)
    result, _ = run(given, engine=engine)
    assert result.engine == (ENGINES[name] if engine == "stacked" else "separate")
    assert distance(alone(given), result.subnets) < 1e-6  # a bias before BatchNorm: Adam scales its rounding up


def test_breakage_groups_that_are_lost(monkeypatch):
    def flat(optimizer, groups):
        return torch.optim.AdamW([tensor for group in groups for tensor in group], lr=0.01)

    monkeypatch.setattr(updating, "remade", flat)
    given = task(optimizer=by_dimensions)
    assert distance(alone(given), run(given)[0].subnets) > 1e-3


def test_breakage_stacked_tensors_have_another_dimension(monkeypatch):
    """What a function of `p.ndim` would do with them."""
    plainly = updating.remade

    def by_what_it_sees(optimizer, groups):
        if isinstance(optimizer, torch.optim.SGD):  # of the trial of engines, which would see that it is wrong
            return plainly(optimizer, groups)
        return by_dimensions(chain.from_iterable(groups))

    monkeypatch.setattr(updating, "remade", by_what_it_sees)
    given = task(optimizer=by_dimensions, subnet=lambda i: Sometimes().double())
    assert distance(alone(given), run(given)[0].subnets) > 1e-3


class Sometimes(nn.Module):
    """A layer that small batches do not reach."""

    def __init__(self):
        super().__init__()
        self.first, self.extra, self.last = nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        h = self.first(x).tanh()
        if len(x) > 8:
            h = h + self.extra(h)
        return self.last(h)


@pytest.mark.parametrize("engine", ["stacked", "separate"])
@pytest.mark.parametrize("optimizer", DECAYING.values(), ids=DECAYING)
def test_what_gets_no_gradient_is_not_touched(optimizer, engine):
    given = task(subnet=lambda i: Sometimes().double(), optimizer=optimizer)
    assert len(prepare(given).x) % 16 == 4  # rows of the last batch
    result, _ = run(given, engine=engine)
    assert distance(alone(given), result.subnets) < EXACT


def test_breakage_what_gets_no_gradient_laid_flat(monkeypatch):
    monkeypatch.setattr("cooptim_lab.subnets.trainer.reaches_all", lambda subnet, trial: True)
    given = task(subnet=lambda i: Sometimes().double(), optimizer=DECAYING["AdamW"])
    assert distance(alone(given), run(given)[0].subnets) > 1e-4


@pytest.mark.parametrize("engine", ["stacked", "separate"])
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_schedule_is_the_plain_loops(schedule, name, engine):
    given = task(model=make(name)[0], scheduler=schedule, optimizer=some_with_momentum)
    result, _ = run(given, engine=engine)
    assert distance(alone(given), result.subnets) < 1e-8


def test_breakage_a_schedule_that_stands_still(monkeypatch):
    monkeypatch.setattr(updating._Schedule, "step", lambda self: None)
    given = task(scheduler=SCHEDULES["one cycle, momentum too"], optimizer=some_with_momentum)
    assert distance(alone(given), run(given)[0].subnets) > 1e-3


def test_a_learning_rate_that_is_a_tensor_is_each_stacks_own():
    given = task(
        model=make("perceptron")[0],
        optimizer=lambda p: torch.optim.Adam(p, lr=torch.tensor(0.02)),
        scheduler=SCHEDULES["of each group"],
    )
    result, _ = run(given, subnets=3)  # of two widths: two stacks
    assert distance(alone(given, subnets=3), result.subnets) < 1e-6  # the rate is in single precision


@pytest.mark.parametrize("engine", ["stacked", "separate"])
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("data", ["all", "bootstrap"])
def test_each_subnets_gradient_is_bounded_by_itself(name, engine, data):
    given = task(model=make(name)[0], clip=0.05, optimizer=by_size)
    result, _ = run(given, engine=engine, data=data)
    assert distance(alone(given, data=data), result.subnets) < 1e-8
    assert distance(alone(task(model=make(name)[0], optimizer=by_size), data=data), result.subnets) > 1e-3


def test_breakage_one_bound_for_all_of_a_stack(monkeypatch):
    def together(gradients, most):
        norm = torch.stack([g.norm() for g in gradients]).norm()
        for g in gradients:
            g.mul_((most / norm).clamp(max=1))

    monkeypatch.setattr(updating, "clip_each", together)
    given = task(clip=0.05, optimizer=by_size)
    assert distance(alone(given), run(given)[0].subnets) > 1e-3


# Dealing anew.


@pytest.mark.parametrize("engine", ["stacked", "separate"])
def test_through_dealing_anew_schedule_and_bound_go_on(engine):
    """One part is the network, however often it is dealt."""
    given = task(scheduler=SCHEDULES["one cycle, momentum too"], clip=0.3, optimizer=some_with_momentum)
    plain, _ = run(given, train_baseline, Baseline(epochs=4, batch=16))
    options = {"split": "neurons", "resplit": 1, "fuse": "merge", "epochs": 4, "engine": engine}
    result, _ = run(given, subnets=1, **options)
    assert distance([plain.network], [result.network]) < EXACT
    one, other = (run(given, subnets=2, **{**options, "engine": e})[0] for e in ("stacked", "separate"))
    assert distance([one.network], [other.network]) < 1e-8


@pytest.mark.parametrize(
    "kind", ["Adam", "NAdam", "RAdam", "ASGD", "Rprop", "Adagrad", "Adadelta", "RMSprop", "Adamax"]
)
def test_what_every_optimizer_remembers_is_dealt_anew(kind):
    given = task(optimizer=lambda p: getattr(torch.optim, kind)(p, lr=0.01))
    plain, _ = run(given, train_baseline, Baseline(epochs=3, batch=16))
    options = {"subnets": 1, "split": "neurons", "fuse": "merge"}
    assert distance([plain.network], [run(given, resplit=1, **options)[0].network]) < EXACT
    one, other = (run(given, resplit=1, **{**options, "subnets": 2, "engine": e})[0] for e in ("stacked", "separate"))
    assert distance([one.network], [other.network]) < 1e-8


def test_breakage_a_memory_that_is_lost(monkeypatch):
    """In place a part keeps its own, so of two parts each has what the other's units were remembered by."""
    given = task(optimizer=lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9))
    options = {"split": "neurons", "resplit": 1, "fuse": "merge"}
    right, _ = run(given, **options)
    monkeypatch.setattr(Trainer, "remember", lambda self, memory: None)
    assert distance([right.network], [run(given, **options)[0].network]) > 1e-3


@pytest.mark.parametrize("split", ["replicas", "neurons"])
def test_a_compiled_network_is_cut_as_it_is_written(split):
    """What is compiled does not call the hooks by which its layers are found."""
    compiled = torch.compile(make("perceptron")[0].double(), backend="eager")
    subnets = run(task(model=compiled), split=split)[0].subnets
    expected = run(task(model=make("perceptron")[0].double()), split=split)[0].subnets
    assert distance([subnet._orig_mod for subnet in subnets], expected) < EXACT


def test_a_memory_that_cannot_be_dealt_is_refused_before_the_clock():
    given = task(optimizer=lambda p: torch.optim.Adafactor(p, lr=0.01))
    with refused("optimizer Adafactor remembers a row_var", "give resplit = 0"):
        run(given, split="neurons", resplit=1)
    with refused("dealt anew", "where nobody says otherwise"):
        run(given, split="neurons", fuse="merge")
    assert run(given, split="neurons", fuse="merge", resplit=0)[0].state == "done"
    result, _ = run(given, split="replicas")
    assert distance(alone(given, split="replicas"), result.subnets) < EXACT


class Averaging(torch.optim.SGD):
    """With modes: the mean of all steps' weights is what it has found, as schedule-free ones have it."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)
        self.is_training = True

    @torch.no_grad()
    def step(self, closure=None):
        assert self.is_training
        super().step()
        for p in (p for group in self.param_groups for p in group["params"]):
            state = self.state[p]
            state["count"] = state.get("count", 0) + 1
            mean = state.setdefault("mean", torch.zeros_like(p))
            mean += (p - mean) / state["count"]

    def _swap(self, is_training):
        if self.is_training != is_training:
            self.is_training = is_training
            with torch.no_grad():
                for p in (p for group in self.param_groups for p in group["params"]):
                    if "mean" in self.state[p]:
                        kept = p.clone()
                        p.copy_(self.state[p]["mean"])
                        self.state[p]["mean"].copy_(kept)

    def train(self):
        self._swap(True)

    def eval(self):
        self._swap(False)


def test_an_optimizer_with_modes_gives_what_it_has_found(monkeypatch):
    given = task(optimizer=Averaging)
    result, _ = run(given)
    assert result.engine == "separate"
    assert distance(alone(given), result.subnets) < EXACT
    monkeypatch.setattr("cooptim_lab.subnets.trainer.has_modes", lambda optimizer: False)  # breakage
    assert distance(alone(given), run(given)[0].subnets) > 1e-3
