"""The programs of the ranks, on one rank without MPI: what they train, what they tell, what they refuse."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from cooptim_lab import Task
from cooptim_lab.comm.context import Context
from cooptim_lab.preparing.prepare import prepare
from cooptim_lab.programs import train_baseline, train_sharded, train_subnets
from cooptim_lab.runs.events import Note, Points, Progress
from cooptim_lab.training.loop import batches
from cooptim_lab.training.spec import Baseline, Sharded, Subnets
from tests.support import SoloComm, refused

pytestmark = pytest.mark.usefixtures("one_thread")

X = np.random.default_rng(0).normal(size=(60, 6))
Y = (X[:, 0] > X[:, 1]).astype("int64") + (X[:, 2] > 0)
PROGRAMS = {
    "baseline": (train_baseline, Baseline(epochs=3, batch=16)),
    "subnets": (train_subnets, Subnets(subnets=2, epochs=3, batch=16)),
    "sharded": (train_sharded, Sharded(aggregate="server", epochs=3, batch=16)),
}


class Comm(SoloComm):
    """The communicator of rank 0 of `size`; it can only be looked at."""

    def __init__(self, size):
        self.size = size

    def Get_size(self):
        return self.size


def network():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 3)).double()


def task(**changed):
    return Task(**{"model": network, "data": (X, Y), "name": "test", **changed})


def run(program, spec, task, *, comm=None, stopping=lambda: False):
    """The result of a program and what it reported."""
    events = []
    return program(
        Context(comm or SoloComm(), lambda *new: events.extend(new), stopping, threads=2), task, spec
    ), events


@pytest.mark.parametrize(("program", "spec"), PROGRAMS.values(), ids=PROGRAMS)
class TestEveryProgram:
    def test_the_result_is_complete_and_its_network_is_what_was_scored(self, program, spec):
        result, _ = run(program, spec, task())
        assert (result.way, result.task, result.state) == (spec.way, "test", "done")
        assert (result.workers, result.threads, result.steps) == (1, torch.get_num_threads(), 9)
        assert result.options == spec.options()
        assert result.seconds > 0
        prepared = prepare(task())
        assert not result.network.training
        assert prepared.score(prepared.outputs(result.network)).loss == result.loss
        assert sum(p.numel() for p in result.network.parameters()) == result.parameters

    def test_it_reports_every_step_and_scores_every_epoch(self, program, spec):
        _, events = run(program, spec, task())
        points = {}
        for event in events:
            if isinstance(event, Points):
                points.setdefault(event.curve, []).extend(event.x)
        held = {curve: points.pop(curve) for curve in ("held-out loss", "accuracy")}
        assert list(held.values()) == [[1.0, 2.0, 3.0]] * 2
        assert set(points) == ({"subnet 0", "subnet 1"} if spec.way == "subnets" else {"training loss"})
        assert all(x == [step / 3 for step in range(1, 10)] for x in points.values())
        assert [event for event in events if isinstance(event, Progress)][-1].done == 9

    def test_the_same_seed_gives_the_same_network(self, program, spec):
        first, second = (run(program, spec, task())[0] for _ in range(2))
        assert first.loss == second.loss
        other, _ = run(program, type(spec)(**{**spec.options(), "seed": 1}), task())
        assert other.loss != first.loss

    def test_stopped_it_keeps_what_was_trained(self, program, spec):
        result, _ = run(program, spec, task(), stopping=lambda: True)
        assert (result.state, result.steps) == ("stopped", 1)
        assert result.network(torch.zeros(2, 6).double()).shape == (2, 3)

    def test_a_task_that_does_not_fit_is_refused(self, program, spec):
        with refused("3 outputs", "labels up to 7"):
            run(program, spec, task(data=(X, np.where(np.arange(60) == 7, 7, Y))))

    def test_a_loss_that_is_not_finite_is_refused(self, program, spec):
        with refused("epoch", "learning rate"):
            run(program, spec, task(data=(X, X[:, :3]), optimizer=lambda p: torch.optim.SGD(p, lr=1e300)))

    def test_a_regression_is_scored_by_its_loss(self, program, spec):
        result, events = run(program, spec, task(data=(X, X[:, :3])))
        assert result.metric_name == "loss"
        assert result.metric == result.loss
        assert "accuracy" not in {event.curve for event in events if isinstance(event, Points)}


def test_the_baseline_is_the_loop_that_everybody_writes_first():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()
    before = copy.deepcopy(model.state_dict())
    result, _ = run(train_baseline, Baseline(epochs=3, batch=16), task(model=model))
    expected, prepared = copy.deepcopy(model), prepare(task(model=model))
    optimizer = torch.optim.Adam(expected.parameters())
    for epoch in range(3):
        for rows in batches(48, 16, 0, epoch):
            optimizer.zero_grad()
            functional.cross_entropy(expected(prepared.x[rows]), prepared.y[rows]).backward()
            optimizer.step()
    for name, value in expected.state_dict().items():  # the warm-up left no trace, in the buffers either
        assert torch.equal(result.network.state_dict()[name], value), name
        assert torch.equal(model.state_dict()[name], before[name]), name


def test_subnets_are_told_apart():
    result, _ = run(train_subnets, Subnets(subnets=4, epochs=3, batch=16), task())
    assert result.engine == "grouped"
    assert len(result.subnet_scores) == len(result.network.subnets) == 4
    assert result.diversity > 0


def test_units_that_cannot_be_dealt_evenly_are_told_of():
    _, events = run(train_subnets, Subnets(subnets=3, epochs=1, engine="stacked"), task())  # 8 units: 3, 3 and 2
    (note,) = [event.text for event in events if isinstance(event, Note)]
    assert note.startswith("3 does not divide layer 0 (8 units)")


class Unit(torch.optim.SGD):
    """A user's own optimizer, by name a kind of SGD: the length of a step depends on all parameters together."""

    @torch.no_grad()
    def step(self, closure=None):
        parameters = [p for group in self.param_groups for p in group["params"]]
        length = torch.stack([p.grad.norm() for p in parameters]).norm()
        for p in parameters:
            p.sub_(p.grad / length, alpha=0.1)


@pytest.mark.parametrize("optimizer", [Unit, torch.optim.Adafactor], ids=["own", "Adafactor"])
def test_an_optimizer_that_is_not_known_to_be_elementwise_is_not_shared(optimizer):
    result, events = run(train_subnets, Subnets(subnets=2, epochs=1), task(optimizer=optimizer))
    assert result.engine == "separate"
    assert any("cannot be stacked" in event.text for event in events if isinstance(event, Note))


class Branching(nn.Module):
    """A module whose path depends on what it computes, which no batched program can follow."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3).double()

    def forward(self, x):
        outputs = self.linear(x)
        return outputs if outputs.mean() > 0 else -outputs


def test_what_cannot_be_batched_is_trained_one_after_the_other():
    result, _ = run(train_subnets, Subnets(subnets=2, epochs=1), task(model=Branching, subnet=lambda i: Branching()))
    assert (result.state, result.engine) == ("done", "separate")


def test_more_workers_than_subnets_are_refused():
    with refused("workers = 3", "2", "sub"):
        run(train_subnets, Subnets(subnets=2, workers=3), task(), comm=Comm(3))
