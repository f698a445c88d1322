"""The one training loop: the order of rows, the clock, what is recorded, when it stops."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from cooptim_lab.runs.events import Points, Progress
from cooptim_lab.training import loop
from cooptim_lab.training.loop import Clock, Recorder, batches, fit, plain_step
from tests.support import refused

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def at(monkeypatch):
    """The time as the loop sees it: set `at.now`."""
    time = SimpleNamespace(now=100.0)
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: time.now))
    return time


def recorder(events, curves=("a", "b"), steps_per_epoch=4, epochs=2):
    return Recorder(lambda *new: events.extend(new), 1, curves, steps_per_epoch, epochs)


# The order of rows.


def test_a_curve_that_ended_goes_on_when_it_is_told_to_and_may_end_again():
    events, ended = [], []
    record = Recorder(lambda *new: events.extend(new), 0, ["a", "b"], 2, 3, lambda place, said: ended.append(place))
    for a in (1.0, torch.nan, 2.0, torch.nan):
        if a == 2.0:
            record.restart()
        record.add(torch.tensor([a, 1.0]))
        record.flush()
    assert ended == [0, 0]
    assert [e.y for e in events if isinstance(e, Points) and e.curve == "a"] == [(1.0,), (2.0,)]


@pytest.mark.parametrize(("rows", "batch"), [(1, 1), (10, 3), (10, 10), (10, 99), (1437, 64)])
def test_batches_partition_the_rows(rows, batch):
    made = batches(rows, batch, seed=0, epoch=0)
    assert sorted(torch.cat(made).tolist()) == list(range(rows))
    assert {len(each) for each in made[:-1]} <= {batch}
    assert 0 < len(made[-1]) <= batch


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else():
    def order(seed, epoch):
        torch.manual_seed(epoch)  # the global generator has no say
        return tuple(torch.cat(batches(64, 8, seed, epoch)).tolist())

    state = torch.get_rng_state()
    batches(64, 8, 0, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert order(0, 0) == order(0, 0)
    assert len({order(seed, epoch) for seed, epoch in itertools.product(range(3), range(3))}) == 9


@pytest.mark.parametrize("seed", [20261123, 2**62, 2**63 - 1])
def test_any_seed_will_do(seed):
    assert len(batches(64, 8, seed, 100)) == 8


# The clock.


def test_what_happens_while_the_clock_is_paused_does_not_count(at):
    clock = Clock()
    at.now += 7
    clock.start()
    at.now += 1
    with clock.paused():
        at.now += 100
    at.now += 2
    assert clock.stop() == 3


def test_a_clock_can_be_started_anew(at):
    clock = Clock()
    clock.start()
    at.now += 5
    clock.stop()
    clock.start()
    at.now += 1
    assert clock.stop() == 1


# What is recorded.


def test_points_carry_their_place_in_epochs(at):
    events = []
    record = recorder(events)
    for step in range(6):
        record.add(torch.tensor([step, 10.0 + step]))
    assert events == []  # a few times a second only
    record.flush()
    x = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    assert [(e.rank, e.curve, e.x, e.y) for e in events[:2]] == [
        (1, "a", x, (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)),
        (1, "b", x, (10.0, 11.0, 12.0, 13.0, 14.0, 15.0)),
    ]
    assert [(e.done, e.total) for e in events[2:]] == [(6, 8)]
    record.flush()
    assert len(events) == 3


def test_points_are_sent_when_their_time_has_come_and_none_twice(at):
    events = []
    record = recorder(events, curves=("a",))
    for _ in range(5):
        at.now += 0.6 * loop.FLUSH_SECONDS
        record.add(torch.tensor([0.5]))
    record.flush()
    points = [event for event in events if isinstance(event, Points)]
    assert [len(event.x) for event in points] == [2, 2, 1]
    assert [x for event in points for x in event.x] == [0.25, 0.5, 0.75, 1.0, 1.25]
    assert [event.done for event in events if isinstance(event, Progress)] == [2, 4, 5]
    assert record.steps == 5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_curve_and_epoch(value):
    events = []
    record = recorder(events)
    for _ in range(5):
        record.add(torch.tensor([1.0, 1.0]))
    record.add(torch.tensor([1.0, value]))
    with refused("'b'", str(value), "epoch 2", "learning rate"):
        record.flush()
    assert [(e.curve, len(e.x)) for e in events if isinstance(e, Points)] == [("a", 6), ("b", 5)]  # what came before


def test_epochs_that_end_in_a_moment_are_told_of_together(at):
    sent = []
    record = Recorder(lambda *events: sent.append(events), 0, ["a"], 2, 100)
    for epoch in range(1, 11):
        for _ in range(2):
            at.now += loop.FLUSH_SECONDS / 5
            record.add([0.5])
        record.score(epoch, {"score": 1.0})
    record.flush()
    assert len(sent) < 8
    x = {curve: [x for events in sent for e in events if isinstance(e, Points) and e.curve == curve for x in e.x]
         for curve in ("a", "score")}  # fmt: skip
    assert x == {"a": [step / 2 for step in range(1, 21)], "score": list(range(1, 11))}
    assert all(sum(isinstance(event, Points) for event in events) <= 2 for events in sent)


def test_a_long_epoch_is_told_of_when_it_ends(at):
    events = []
    record = recorder(events, curves=("a",))
    for epoch in (1, 2):
        at.now += 100
        record.add([0.5])
        record.score(epoch, {"score": 1.0})
        assert [e.x for e in events if isinstance(e, Points) and e.curve == "score"][-1] == (epoch,)


def test_what_is_not_finite_is_found_before_it_is_scored():
    scored = []
    with refused("'a'", "nan"):
        fit(
            lambda rows: [float("nan")], lambda epoch: [torch.tensor([0])], 1,
            recorder=recorder([], curves=("a",)), clock=Clock(), stopping=lambda: False, end_epoch=scored.append,
        )  # fmt: skip
    assert scored == []


# When it stops.


def run_loop(*, stop_after=None, agree=True, epochs=3):
    """Five steps an epoch; how many steps were taken, the epochs that were ended, and what fit returned."""
    record, ended = recorder([], curves=("a",), steps_per_epoch=5, epochs=epochs), []

    def end_epoch(epoch):
        ended.append(epoch)
        return agree and stop_after is not None and record.steps >= stop_after

    finished = fit(
        lambda rows: torch.tensor([1.0]),
        lambda epoch: [torch.tensor([0])] * 5,
        epochs,
        recorder=record,
        clock=Clock(),
        stopping=lambda: stop_after is not None and record.steps >= stop_after,
        end_epoch=end_epoch,
    )
    return record.steps, ended, finished


def test_left_alone_it_comes_to_its_end():
    assert run_loop() == (15, [1, 2, 3], True)


def test_it_stops_after_the_step_it_is_in():
    assert run_loop(stop_after=7) == (7, [1, 2], False)


def test_it_stops_only_when_all_agree():
    assert run_loop(stop_after=7, agree=False) == (8, [1, 2, 3], True)


def test_ending_an_epoch_costs_no_time(at):
    clock = Clock()
    clock.start()

    def step(rows):
        at.now += 1
        return torch.tensor([1.0])

    def end_epoch(epoch):
        at.now += 1000
        return False

    fit(
        step, lambda epoch: [torch.tensor([0])] * 5, 2,
        recorder=recorder([], curves=("a",)), clock=clock, stopping=lambda: False, end_epoch=end_epoch,
    )  # fmt: skip
    assert clock.stop() == 10


def test_the_plain_step_is_forward_backward_update():
    torch.manual_seed(0)
    model, x, y = nn.Linear(3, 2), torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 0])
    rows = torch.tensor([0, 3])
    before = model.weight.detach().clone()
    expected = functional.cross_entropy(model(x[rows]), y[rows])
    (gradient,) = torch.autograd.grad(expected, [model.weight])
    step = plain_step(model, torch.optim.SGD(model.parameters(), lr=0.5), functional.cross_entropy, x, y)
    losses = step(rows)
    assert losses.shape == (1,)
    assert not losses.requires_grad
    assert losses.item() == expected.item()
    assert torch.allclose(model.weight, before - 0.5 * gradient)
