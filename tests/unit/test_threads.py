"""The trial of a step's threads, by a clock that the step itself moves."""

from __future__ import annotations

import pytest
import torch

from cooptim_lab.levers.hardware import fewer
from cooptim_lab.training import threads as trial
from cooptim_lab.training.threads import MOST_SECONDS, STEPS, TURNS, try_threads


class Machine:
    """A step takes as long as `seconds` says of the number of threads."""

    def __init__(self, monkeypatch, seconds) -> None:
        self.seconds, self.now, self.threads, self.set, self.steps = seconds, 0.0, 0, [], []
        monkeypatch.setattr(trial.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(trial.torch, "set_num_threads", self.use)

    def use(self, threads: int) -> None:
        self.threads = threads
        self.set.append(threads)

    def step(self, rows) -> None:
        self.steps.append(self.threads)
        self.now += self.seconds[self.threads]

    def tried(self, threads: int):
        return try_threads(lambda: self.step, lambda epoch: [1, 2, 3], threads)


def test_its_own_number_first_then_fewer(monkeypatch):
    machine = Machine(monkeypatch, {4: 0.004, 1: 0.001, 2: 0.002})
    assert machine.tried(4) == tuple((n, pytest.approx(n / 1000)) for n in (4, 1, 2))
    assert machine.set == [4, 1, 2] * TURNS + [4]
    assert len(machine.steps) == 3 * TURNS * STEPS


def test_one_thread_has_nothing_to_try(monkeypatch):
    machine = Machine(monkeypatch, {1: 1.0})
    assert machine.tried(1) == ()
    assert machine.steps == machine.set == []


def test_long_steps_are_tried_once(monkeypatch):
    machine = Machine(monkeypatch, {2: 1.2 * MOST_SECONDS, 1: 0.001})
    assert machine.tried(2) == ((2, pytest.approx(1.2 * MOST_SECONDS)), (1, pytest.approx(0.001)))
    assert machine.set == [2, 1, 2]
    assert machine.steps.count(2) == 2


def test_of_very_long_ones_nothing_is_known(monkeypatch):
    machine = Machine(monkeypatch, {2: 3 * MOST_SECONDS, 1: 0.001})
    assert machine.tried(2) == ()
    assert machine.set == [2, 2]


def test_the_threads_come_back_whatever_happens(monkeypatch):
    machine = Machine(monkeypatch, {2: 1.0})  # of one thread it knows nothing: KeyError
    machine.seconds = {2: 0.01}
    with pytest.raises(KeyError):
        machine.tried(2)
    assert machine.set[-1] == 2


def test_randomness_goes_on_as_if_there_had_been_no_trial(monkeypatch):
    machine = Machine(monkeypatch, {2: 0.01, 1: 0.01})
    machine.step = lambda rows: torch.rand(1)
    monkeypatch.setattr(trial.time, "perf_counter", iter(range(10_000)).__next__)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    machine.tried(2)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(("threads", "less"), [(1, []), (2, [1]), (3, [1, 2]), (8, [1, 2, 4]), (9, [1, 2, 4, 8])])
def test_fewer(threads, less):
    assert fewer(threads) == less
