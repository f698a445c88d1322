"""A job's passage through the ranks, by what they say: when it has begun, and whose end is whose."""

from __future__ import annotations

import queue

import cloudpickle
import pytest

from cooptim_lab import PoolError, RankFailure, Run, RunStopped
from cooptim_lab.ranks import carrier as module
from cooptim_lab.ranks.attempt import Attempt
from cooptim_lab.ranks.carrier import PASSAGES, Carrier
from cooptim_lab.ranks.job import Job, give_values
from cooptim_lab.ranks.launch import Launch
from cooptim_lab.ranks.mailbox import Lost, Printed, Printing
from cooptim_lab.ranks.parcel import Parcel, Sender
from cooptim_lab.ranks.wire import Aside, Begun, Failed, Finished, Happened, Hello, Start
from cooptim_lab.runs.events import Note, Output, Points, Resumed

HERE = 7
"""The job."""


class Ends:
    def of_rank(self, hello):
        return "was killed"

    def of_launcher(self):
        return "killed too"


class Ranks:
    """Ranks that hear everything and say nothing."""

    reason, is_lost, ends = None, False, Ends()

    def __init__(self, workers):
        self.workers, self.sent, self.killed = workers, [], 0
        self.hellos = {
            rank: Hello(rank, workers, "h", 100 + rank, "MPI", "elsewhere", 2, ()) for rank in range(workers)
        }

    def send(self, rank, message, patience=-1):
        self.sent.append((rank, type(message)))

    def send_all(self, ranks, message):
        for rank in ranks:
            self.send(rank, message)

    def expect(self, workers):
        """Nobody reads."""

    def kill(self):
        self.killed += 1


def job_for(workers):
    run = Run("test", {})
    return Job(HERE, run, ((Parcel(b""),),) * workers, Sender(), workers, give_values, True)


def passage(*messages, workers=2, ranks=2, stops=0):
    """An attempt that has heard these messages, its run, and the ranks."""
    job, mailbox, made = job_for(workers), queue.SimpleQueue(), Ranks(ranks)
    for message in messages:
        mailbox.put(message)
    for _ in range(stops):
        job.run.stop()
    attempt = Attempt(job, made, mailbox)
    attempt.execute()
    return attempt, job.run, made


def said(run):
    return [event.text for event in run.log.since(0) if isinstance(event, Note | Output)]


def value(rank):
    return (rank, Finished(HERE, cloudpickle.dumps(rank)))


NOTE = Happened(HERE, (Note(text="seen"),))


def test_nothing_is_shown_before_every_rank_has_begun():
    late = (1, Begun(HERE)), (0, Happened(HERE, (Note(text="then"),))), value(0), value(1)
    _, run, _ = passage((0, Begun(HERE)), (0, NOTE), (0, Printed("stdout", "too\n")), *late)
    assert run.result == [0, 1]
    assert said(run) == ["seen", "too\n", "then"]


def test_an_unfinished_line_is_held_back_too_and_shown_when_all_have_begun():
    growing, heard = (0, Printing("stdout", "a")), list[list[str]]()
    job, mailbox = job_for(2), queue.SimpleQueue()
    for message in ((0, Begun(HERE)), growing, (1, Begun(HERE)), value(0), value(1)):
        mailbox.put(message)
    job.run.log.listen(lambda event: heard.append([line.text for line in job.run.log.unfinished()]))
    job.run.log.append(Note(text="nothing yet"))
    Attempt(job, Ranks(2), mailbox).execute()
    assert heard == [[], ["a"], [], []]
    assert said(job.run) == ["nothing yet", "a\n"]  # what was seen of it stays, though its end never came


def test_points_are_shown_at_once_and_void_where_they_were_for_nothing():
    points = Happened(HERE, (Points(curve="loss", x=(1.0,), y=(2.0,)),))
    for end, kinds in (((1, Lost()), [Points, Resumed]), ((1, Begun(HERE)), [Points])):
        _, run, _ = passage((0, Begun(HERE)), (0, points), end, value(0), value(1))
        assert [type(each) for each in run.log.since(0) if isinstance(each, Points | Resumed)] == kinds


def test_ranks_that_have_no_part_are_asked_too_and_kept_waiting_for_by_none():
    attempt, run, ranks = passage((0, Begun(HERE)), (0, NOTE), value(0), workers=1)
    assert [(rank, kind) for rank, kind in ranks.sent if kind in (Start, Aside)] == [(0, Start), (1, Aside)]
    assert (run.result, said(run), attempt.is_void) == ([0], ["seen"], False)


@pytest.mark.parametrize(
    "messages",
    [
        [(0, Begun(HERE)), (0, NOTE), (0, Printed("stdout", "once\n")), (1, Lost())],
        [(1, Lost()), (0, Begun(HERE))],
        [(0, Begun(HERE)), (0, Failed(HERE, "error", "mpi4py.MPI.Exception: no", "")), (1, Lost())],
        [(0, Begun(HERE)), (0, NOTE), value(0), (1, Lost())],
        [(0, Begun(HERE)), (0, NOTE), (0, Lost(frozenset({1})))],  # the launcher has ended it for the other's sake
        [(0, Begun(HERE - 1)), (1, Begun(HERE - 1)), (1, Lost())],  # of the job before
    ],
    ids=["some had begun", "none had", "one raised for it", "one had ended", "found together", "an old word"],
)
def test_a_death_at_rest_makes_the_passage_void_and_nothing_shows(messages):
    attempt, run, ranks = passage(*messages)
    assert attempt.is_void
    assert isinstance(attempt.failure, RankFailure)
    assert attempt.failure.rank == 1
    assert "before the run had begun" in str(attempt.failure)
    assert said(run) == []
    assert (run.ended, ranks.killed) == (False, 1)


def test_a_death_of_one_that_has_no_part_is_at_rest_too():
    attempt, run, _ = passage((0, Begun(HERE)), (0, NOTE), (1, Lost()), workers=1)
    assert (attempt.is_void, said(run)) == (True, [])


def test_the_end_of_the_whole_launch_at_rest_is_void():
    attempt, _, _ = passage((0, Begun(HERE)), (None, Lost()))
    assert attempt.is_void
    assert isinstance(attempt.failure, PoolError)


@pytest.mark.parametrize("before", [[(0, Begun(HERE))], [(0, Begun(HERE)), (1, Begun(HERE))]], ids=["alone", "all"])
def test_the_end_of_a_rank_that_had_begun_is_the_jobs(before):
    attempt, run, _ = passage(*before, (0, NOTE), (0, Lost()))
    assert not attempt.is_void
    assert attempt.failure.rank == 0
    assert said(run) == ["seen"]


def test_the_last_words_of_a_rank_at_rest_are_not_lost():
    last = (1, Printed("stderr", "Segmentation fault\n"))
    _, run, _ = passage((0, Begun(HERE)), (0, NOTE), last, (1, Lost()))
    assert said(run) == ["Segmentation fault\n"]


def test_a_run_that_was_stopped_does_not_begin_again():
    attempt, _, _ = passage((1, Lost()), stops=1)
    assert not attempt.is_void
    assert isinstance(attempt.failure, RunStopped)


class Void:
    """A passage that meets a death at rest so many times."""

    pending = frozenset()

    def __init__(self, deaths, job):
        self.is_void, self._job = bool(deaths), job
        self.failure = RankFailure(1, "h", "was killed; before it had begun") if deaths else None

    def execute(self):
        if not self.is_void:
            self._job.run.finish("whole")


@pytest.mark.parametrize("deaths", [0, 1, PASSAGES - 1, PASSAGES, 100])
def test_a_job_begins_again_so_many_times_and_no_more(monkeypatch, deaths):
    left, asked = [deaths], []

    def attempt(job, ranks, mailbox):
        left[0] -= 1
        return Void(left[0] >= 0, job)

    monkeypatch.setattr(module, "Attempt", attempt)
    monkeypatch.setattr(Carrier, "_ensure", lambda self, workers, cancelled: Ranks(workers))
    carrier, run = Carrier(Launch(), 2), Run("test", {})
    rescue = lambda error: asked.append(error) or False  # noqa: E731
    carrier.submit(Job(HERE, run, (), Sender(), 2, give_values, True, rescue=rescue))
    assert run.join(10)
    carrier.close()
    again = [text for text in said(run) if "begins again" in text]
    if deaths < PASSAGES:
        assert (run.result, len(again), asked) == ("whole", deaths, [])
    else:
        assert (run.state, len(again), len(asked)) == ("failed", PASSAGES - 1, 1)
