"""One program on its way through the ranks: sent, heard out, stopped, and how it ended.

What the ranks say comes through the pool's mailbox; a job makes events and an end of its run of it. A rank that raises,
dies or does not answer ends the job for all.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cloudpickle

from ..errors import InputError, LabError, PoolError, RankFailure, RunStopped
from ..runs.events import Output
from ..runs.run import Run
from . import wire
from .parcel import Parcel, Sender
from .rankset import Lost, Mailbox, Printed, RankSet

ANSWER_SECONDS = 2.0
"""A rank that has not answered an interrupt by then sits in a call that Python cannot leave: all ranks are replaced."""

REPLACED = "all ranks are replaced, and names that cells have left in them are lost"

Finish = Callable[[Run[Any], list[Any], bool], None]
"""Makes the run's result of the values of all ranks, in their order; the flag says whether it was asked to stop."""


@dataclass(frozen=True)
class StopAsked:
    """Put into the mailbox by the user's stop: level 1 asks, 2 interrupts, 3 ends the ranks."""

    job: int
    level: int


@dataclass(frozen=True)
class Closing:
    """Put into the mailbox before the pool ends its ranks for good."""


@dataclass
class Job:
    """A program for `workers` ranks, on behalf of a run; see `RankPool.submit` for what the fields mean."""

    id: int
    run: Run[Any]
    calls: tuple[Parcel, ...]
    sender: Sender
    workers: int
    finish: Finish
    is_cooperative: bool
    timeout: float | None = None
    pending: set[int] = field(default_factory=set)
    """The ranks that have not ended it."""
    failure: LabError | None = None
    _values: dict[int, Any] = field(default_factory=dict)
    _deadline: float | None = None
    _is_interrupted: bool = False

    def execute(self, ranks: RankSet, mailbox: Mailbox, epoch: int, threads: int) -> None:
        """Run it on the first of these ranks, to its end: the run's result, or `failure`."""
        self.pending = set(range(self.workers))
        for rank in range(self.workers):
            ranks.send(rank, wire.Start(self.id, epoch, self.workers, threads, self.calls[rank]))
        if self.timeout is not None:
            self._deadline = time.monotonic() + self.timeout
        self._attend(ranks, mailbox)
        if self.failure is not None:
            self.run.fail(self.failure)
        else:
            self.finish(self.run, [self._values[rank] for rank in range(self.workers)], self.run.stop_level > 0)

    def _attend(self, ranks: RankSet, mailbox: Mailbox) -> None:
        """Hear the ranks out until every one has returned, failed or is gone."""
        while self.pending:
            try:
                left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
                rank, message = mailbox.get(timeout=left)
            except queue.Empty:
                if self._is_interrupted:
                    self._fail(RunStopped("stopped"), f"a rank did not answer; {REPLACED}")
                    ranks.kill()
                    return
                late = ", ".join(map(str, sorted(self.pending)))
                self.failure = PoolError(f"not done after {self.timeout:g} s: rank {late} was interrupted")
                self._interrupt(ranks)
                continue
            match message:
                case wire.Happened(job=self.id, event=event):
                    self.run.post(event)
                case Printed(stream=stream, text=text):
                    self.run.post(Output(rank=rank, stream=stream, text=text))
                case wire.Finished(job=self.id, value=value) if rank is not None:
                    self.pending.discard(rank)
                    self._values[rank] = cloudpickle.loads(value)
                case wire.Failed(job=self.id) if rank is not None:
                    self.pending.discard(rank)
                    self._on_failed(ranks, rank, message)
                case Closing():
                    self._fail(RunStopped("stopped: the pool was closed"))
                    ranks.kill()
                    return
                case Lost():
                    self._on_lost(ranks, rank)
                    return
                case StopAsked(job=self.id, level=level):
                    self._on_stop(ranks, level)

    def _on_failed(self, ranks: RankSet, rank: int, message: wire.Failed) -> None:
        if message.kind == "interrupt":
            self._fail(RunStopped("stopped"))
        elif message.kind == "input":
            self._fail(InputError(message.message))
        else:
            self._fail(RankFailure(rank, ranks.hellos[rank].host, message.message, message.traceback))
        self._interrupt(ranks)  # the others may wait for this one for ever

    def _on_lost(self, ranks: RankSet, rank: int | None) -> None:
        if self.run.stop_level > 2:
            self.failure = None  # whatever else went wrong, this end was asked for
            self._fail(RunStopped("stopped"), REPLACED)
        elif rank is None:
            said = " | ".join(list(ranks.launcher_output)[-4:]) or "it said nothing"
            self._fail(PoolError(f"mpiexec ended and took all ranks with it: {said}"), REPLACED)
        else:
            self._fail(RankFailure(rank, ranks.hellos[rank].host, ranks.cause_of_death(rank)), REPLACED)
        ranks.kill()

    def _on_stop(self, ranks: RankSet, level: int) -> None:
        if level > 2:
            ranks.kill()  # its Lost follows
        elif level == 2 or not self.is_cooperative:
            self._interrupt(ranks)
        else:
            for rank in self.pending:
                ranks.send(rank, wire.Stop(self.id))

    def _interrupt(self, ranks: RankSet) -> None:
        if self._is_interrupted:
            return
        self._is_interrupted = True
        for rank in self.pending:
            ranks.send(rank, wire.Stop(self.id, hard=True))
        self._deadline = time.monotonic() + ANSWER_SECONDS

    def _fail(self, new: LabError, more: str = "") -> None:
        """Note a failure: the first one counts, but a real one before what a stop has caused."""
        known = self.failure
        failure = new if known is None or isinstance(known, RunStopped) else known
        self.failure = _say_more(failure, more) if more else failure


def _say_more(failure: LabError, more: str) -> LabError:
    """The same failure, with `more` at the end of its message."""
    if isinstance(failure, RankFailure):
        said = f"{failure.message}; {more}"
        return RankFailure(failure.rank, failure.host, said, failure.remote_traceback)
    return type(failure)(f"{failure}; {more}")


def give_values(run: Run[Any], values: list[Any], stopped: bool) -> None:
    """The plainest `Finish`: the result is the ranks' values, in order."""
    run.finish(values)
