"""A rank's own side, in this process: what it answers, and that an interrupt at a bad moment does not end it."""

from __future__ import annotations

import queue
import signal
import time

import cloudpickle
import pytest

from cooptim_lab import InputError
from cooptim_lab.ranks import rank as module
from cooptim_lab.ranks import wire
from cooptim_lab.ranks.wire import Failed, Finished, Stop
from tests.support import wait_until


class Control:
    """A control connection: what the rank sends is in `sent`; it hears nothing until told."""

    def __init__(self):
        self.sent, self.inbox = [], queue.SimpleQueue()

    def send(self, message):
        self.sent.append(message)

    def recv(self):
        return self.inbox.get()

    def poll(self, seconds):
        time.sleep(seconds)
        return not self.inbox.empty()

    def close(self):
        """Nothing."""


@pytest.fixture
def rank(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    made = module.Rank(Control(), Worlds())
    monkeypatch.setattr(made, "_call", lambda start: start.call())
    yield made
    signal.signal(signal.SIGINT, before)


class Worlds:
    """None of them is used up."""

    def take(self, workers, job):
        """Nothing is made."""

    def end(self, is_clean):
        return ""


class Start:
    """A start whose program is a plain function."""

    job, workers, threads = 7, 1, 1

    def __init__(self, call):
        self.call = call


def answer(rank, call):
    try:
        rank._run(Start(call))
    except KeyboardInterrupt:
        pytest.fail("the interrupt got out: it would have ended the rank")
    (message,) = rank._control.sent
    return message


def fail(error):
    raise error


def test_a_value_is_sent_back(rank):
    message = answer(rank, lambda: {"a": 1})
    assert isinstance(message, Finished)
    assert cloudpickle.loads(message.value) == {"a": 1}


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (InputError("give another"), "input", "give another"),
        (ValueError("two\nlines"), "error", "ValueError: two"),
        (KeyboardInterrupt(), "interrupt", "stopped"),
        (SystemExit(3), "error", "SystemExit: 3"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_sent_back_by_kind(rank, error, kind, said):
    message = answer(rank, lambda: fail(error))
    assert isinstance(message, Failed)
    assert (message.job, message.kind) == (7, kind)
    assert message.message.startswith(said)


def test_the_traceback_is_the_programs_own(rank):
    message = answer(rank, lambda: fail(ValueError("no")))
    assert "in fail" in message.traceback
    assert module.__file__ not in message.traceback


def test_a_value_that_cannot_be_sent_is_an_error(rank):
    assert answer(rank, queue.SimpleQueue).kind == "error"


def test_an_interrupt_ends_the_program(rank):
    assert answer(rank, lambda: signal.raise_signal(signal.SIGINT)).kind == "interrupt"


def test_an_interrupt_that_came_before_the_program_ends_it_at_once(rank):
    rank._stop = Stop(7, hard=True)
    assert answer(rank, lambda: pytest.fail("it was called")).kind == "interrupt"


def test_an_interrupt_between_programs_is_for_nobody(rank):
    signal.raise_signal(signal.SIGINT)
    assert isinstance(answer(rank, lambda: 1), Finished)
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_while_an_error_is_being_told_does_not_end_the_rank(rank, monkeypatch):
    told = module.own_traceback

    def interrupted(error):
        signal.raise_signal(signal.SIGINT)
        return told(error)

    monkeypatch.setattr(module, "own_traceback", interrupted)
    assert answer(rank, lambda: fail(ValueError("no"))).kind == "error"


@pytest.mark.parametrize(
    "heard", [wire.Start(7, 0, 1, False, 1, ()), wire.Aside(7)], ids=["with a part in it", "without"]
)
def test_a_rank_says_that_a_job_begins_when_it_hears_of_it(rank, heard):
    rank._control.inbox.put(heard)
    assert wait_until(lambda: rank._control.sent)
    assert rank._control.sent == [wire.Begun(7)]
    assert rank._inbox.empty() == isinstance(heard, wire.Aside)
