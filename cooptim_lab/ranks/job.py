"""One program on its way through the ranks: sent, heard out, stopped, and how it ended.

What the ranks say comes through the pool's mailbox; a job makes events and an end of its run of it. A rank that raises,
dies or does not answer ends the job for all.
"""

from __future__ import annotations

import dataclasses
import queue
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle

from ..errors import InputError, LabError, PoolError, RankFailure, RunStopped
from ..runs.events import Output
from ..runs.run import Run
from . import wire
from .parcel import Parcel, Sender, machine
from .rankset import Lost, Mailbox, Printed, RankSet

ANSWER_SECONDS = 2.0
"""A rank that has not answered an interrupt by then sits in a call that Python cannot leave: all ranks are replaced."""

CHUNK = 1 << 20
"""Bytes of a memory file in one message to another machine."""

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
    _has_begun: bool = False
    _keepers: dict[tuple[str, str | None], int] = field(default_factory=dict)
    """The rank that keeps a memory file for its machine."""
    _stored: dict[tuple[int, str | None], str] = field(default_factory=dict)
    """Where a keeper has put a memory file."""

    def execute(self, ranks: RankSet, mailbox: Mailbox, epoch: int) -> None:
        """Run it on the first of these ranks, to its end: the run's result, or `failure`."""
        self.pending = set(range(self.workers))
        if self.timeout is not None:
            self._deadline = time.monotonic() + self.timeout
        self._ship(ranks)
        self._start(ranks, epoch)
        self._attend(ranks, mailbox, epoch)
        for rank in self._keepers.values():
            ranks.send(rank, wire.Forget(self.id))
        if self.failure is not None:
            self.run.fail(self.failure)
        else:
            self.finish(self.run, [self._values[rank] for rank in range(self.workers)], self.run.stop_level > 0)
        for rank in range(self.workers):
            ranks.send(rank, wire.Rest())

    def _ship(self, ranks: RankSet) -> None:
        """Bring the large buffers to machines that cannot map this one's memory: each once, to one of their ranks."""
        for rank, parcel in enumerate(self.calls):
            place = ranks.hellos[rank].machine, parcel.file
            if parcel.file is None or place[0] == machine() or place in self._keepers:
                continue
            self._keepers[place] = rank
            with Path(parcel.file).open("rb") as file:
                while not self.run.stop_level:
                    data = file.read(CHUNK)
                    ranks.send(rank, wire.Store(self.id, parcel.file, data))
                    if not data:
                        break

    def _start(self, ranks: RankSet, epoch: int) -> None:
        """Send the program, unless buffers are still on their way: then it waits for the last."""
        if len(self._stored) < len(self._keepers):
            return
        self._has_begun = True
        hellos = [ranks.hellos[rank] for rank in range(self.workers)]
        for rank, threads in enumerate(share_cpus(hellos)):
            parcel = self.calls[rank]
            place = hellos[rank].machine, parcel.file
            if place in self._keepers:
                parcel = dataclasses.replace(parcel, file=self._stored[self._keepers[place], parcel.file])
            ranks.send(rank, wire.Start(self.id, epoch, self.workers, threads, parcel))

    def _attend(self, ranks: RankSet, mailbox: Mailbox, epoch: int) -> None:
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
                case wire.Stored(job=self.id, file=file, path=path) if rank is not None:
                    self._stored[rank, file] = path
                    self._start(ranks, epoch)
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
        elif self._has_begun:
            for rank in self.pending:
                ranks.send(rank, wire.Stop(self.id))
        else:
            self._interrupt(ranks)

    def _interrupt(self, ranks: RankSet) -> None:
        if self._is_interrupted:
            return
        self._is_interrupted = True
        if not self._has_begun:
            self._fail(RunStopped("stopped before it began"))
            self.pending.clear()
        for rank in self.pending:
            ranks.send(rank, wire.Stop(self.id, hard=True))
        self._deadline = time.monotonic() + ANSWER_SECONDS

    def _fail(self, new: LabError, more: str = "") -> None:
        """Note a failure: the first one counts, but a real one before what a stop has caused."""
        known = self.failure
        failure = new if known is None or isinstance(known, RunStopped) else known
        self.failure = _say_more(failure, more) if more else failure


def share_cpus(hellos: Sequence[wire.Hello]) -> list[int]:
    """Threads for each of these ranks: the CPUs it may use, over the ranks that share them; at least 1."""
    shared = Counter((hello.machine, hello.affinity) for hello in hellos)
    return [max(1, hello.cpus // shared[hello.machine, hello.affinity]) for hello in hellos]


def _say_more(failure: LabError, more: str) -> LabError:
    """The same failure, with `more` at the end of its message."""
    if isinstance(failure, RankFailure):
        said = f"{failure.message}; {more}"
        return RankFailure(failure.rank, failure.host, said, failure.remote_traceback)
    return type(failure)(f"{failure}; {more}")


def give_values(run: Run[Any], values: list[Any], stopped: bool) -> None:
    """The plainest `Finish`: the result is the ranks' values, in order."""
    run.finish(values)
