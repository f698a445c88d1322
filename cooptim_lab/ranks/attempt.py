"""One passage of a job through the ranks: sent, heard out, stopped, and how it ended.

What the ranks say comes through the mailbox; events and an end of the run are made of it. A rank that raises, dies or
does not answer ends the passage for all. Whether the job is then tried again is not decided here.
"""

from __future__ import annotations

import itertools
import queue
import time
from typing import Any

import cloudpickle

from ..errors import InputError, LabError, PoolError, RankFailure, RunStopped
from ..runs.events import Note, Output, Unfinished
from . import wire
from .beginning import Beginning
from .cpus import share_cpus, take_turns
from .failures import Failure, Weight, is_of_mpi, say_more, weightier
from .job import Job
from .mailbox import Closing, Lost, Mailbox, Printed, Printing, Unreadable
from .rankset import RankSet
from .shipping import Shipment

ANSWER_SECONDS = 1.5
"""A rank that has not answered an interrupt by then sits in a call that Python cannot leave: all ranks are replaced."""

ECHO_SECONDS = 1.0
"""The same where another rank has failed: most of those that do not answer then wait for that one in MPI."""

REPLACED = "all ranks are replaced, and names that cells have left in them are lost"
AT_REST = f"that was before the run had begun on it; {REPLACED}"


class Attempt:
    """One passage of a job through the first of these ranks.

    One that meets the death of a rank at rest (beginning.py) is void: nothing of it shows in the run. What the program
    has done otherwise on ranks that had begun, files that it wrote say, is not taken back, and done once more by the
    next attempt.

    Attributes
    ----------
    pending : set[int]
        The ranks that have not ended it.
    failure : LabError | None
        Why it failed, once it has ended.
    """

    def __init__(self, job: Job, ranks: RankSet, mailbox: Mailbox) -> None:
        self.pending = set(range(job.workers))
        self._failure: Failure | None = None
        self._died_at_rest: list[int] = []
        self._job, self._run, self._ranks, self._mailbox = job, job.run, ranks, mailbox
        self._shipment = Shipment(job.id, job.calls, ranks)
        self._beginning = Beginning(job.run, ranks.workers)
        self._values: dict[int, Any] = {}
        self._unsound: dict[int, str] = {}  # in the middle of what it was left, by rank
        self._raised: dict[int, str] = {}  # what the program raised, by rank
        self._deadline: float | None = None
        self._stop_level = 0  # how far the wish to stop was heard
        self._is_interrupted = False
        self._is_sent = False

    @property
    def failure(self) -> LabError | None:
        return None if self._failure is None else self._failure.error

    @property
    def is_void(self) -> bool:
        """Whether it has met the death of a rank at rest."""
        return bool(self._died_at_rest)

    def execute(self) -> None:
        """See it to its end: the run's result, or `failure`, which is for whoever carries the job."""
        self._shipment.begin()
        self._send()
        try:
            self._attend()
        finally:
            if not self._shipment.end(ANSWER_SECONDS):
                self._stopped(f"a rank does not take its data; {REPLACED}")
                self._ranks.kill()
            self._ranks.send_all(range(self._job.workers), wire.Rest())
            self._beginning.show_held(self._died_at_rest)
        if self._unsound:
            left = ", ".join(f"rank {rank} inside {why}" for rank, why in sorted(self._unsound.items()))
            self._run.post(Note(text=f"left in the middle of something: {left}; {REPLACED}", is_doubt=False))
            self._ranks.kill()
        if self.failure is None:
            values = [self._values[rank] for rank in range(self._job.workers)]
            self._job.finish(self._run, values, self._run.stop_level > 0)

    def _send(self) -> None:
        """Send the program, unless buffers are still on their way: then it waits for the last."""
        if not self._shipment.is_complete or self._is_sent or self._is_interrupted:
            return
        self._is_sent = True
        job, ranks = self._job, self._ranks
        if job.timeout is not None:
            self._deadline = time.monotonic() + job.timeout
        hellos = [ranks.hellos[rank] for rank in range(job.workers)]
        ranks.expect(job.workers)
        starts = [
            wire.Start(job.id, job.workers, threads, turns, job.carried, self._shipment.parcels(rank))
            for rank, (threads, turns) in enumerate(zip(share_cpus(hellos), take_turns(hellos), strict=True))
        ]
        for start, group in itertools.groupby(range(job.workers), starts.__getitem__):
            ranks.send_all(group, start)
        ranks.send_all(range(job.workers, ranks.workers), wire.Aside(job.id))

    def _attend(self) -> None:
        """Hear the ranks out until every one has returned, failed or is gone."""
        while self.pending:
            # Looked at before every message: those of a chatty program must not keep the clock or the user waiting.
            if self._stop_level < self._run.stop_level:
                self._stop_level = self._run.stop_level
                self._on_stop(self._stop_level)
            left = None if self._deadline is None else self._deadline - time.monotonic()
            if left is not None and left <= 0:
                if self._on_late():
                    return
                continue
            try:
                rank, message = self._mailbox.get(timeout=left)
            except queue.Empty:
                continue
            if self._is_end(rank, message):
                return

    def _is_end(self, rank: int | None, message: Any) -> bool:
        """Take a message; True when the ranks are ended."""
        match message:
            case wire.Stored(job=self._job.id, file=file, path=path) if rank is not None:
                self._shipment.arrived(rank, file, path)
                self._send()
            case wire.Begun(job=self._job.id) if rank is not None:
                self._beginning.on(rank)
            case wire.Happened(job=self._job.id, events=events):
                for event in events:
                    self._beginning.show(rank, event)
            case Printed(stream=stream, text=text):
                self._beginning.show(rank, Output(rank=rank, stream=stream, text=text))
            case Printing(stream=stream, text=text):
                self._beginning.show(rank, Unfinished(rank=rank, stream=stream, text=text))
            case wire.HasImported(files=files):
                self._ranks.imported.update(files)
            case wire.Unsound(job=self._job.id, why=why) if rank is not None:
                self._unsound[rank] = why
            case wire.Finished(job=self._job.id, value=value) if rank is not None:
                self._on_finished(rank, value)
            case wire.Failed(job=self._job.id) if rank is not None:
                self.pending.discard(rank)
                self._on_failed(rank, message)
            case Unreadable(why=why) if rank is not None:
                self._raised_on(rank, f"what it sent cannot be opened in the notebook: {why}")
                self._interrupt()
            case Closing():
                self._fail(Weight.STOP, RunStopped("stopped: the pool was closed"))
                self._ranks.kill()
                return True
            case Lost(others=others):
                self._on_lost(rank, others)
                return True
        return False

    def _on_late(self) -> bool:
        """The time is up: the program's own, or that for an answer to an interrupt. True when the ranks are ended."""
        if self._is_interrupted:
            self._stopped(f"a rank did not answer; {REPLACED}")
            self._ranks.kill()
            return True
        late = ", ".join(map(str, sorted(self.pending)))
        said = f"not done after {self._job.timeout:g} s: rank {late} was interrupted"
        self._fail(Weight.RAISED, PoolError(said))
        self._interrupt()
        return False

    def _on_finished(self, rank: int, value: bytes) -> None:
        self.pending.discard(rank)
        try:
            self._values[rank] = cloudpickle.loads(value)
        except Exception as error:  # noqa: BLE001 - opening an object may raise anything
            self._raised_on(rank, f"its value cannot be opened in the notebook: {type(error).__name__}: {error}")
            self._interrupt()

    def _on_failed(self, rank: int, message: wire.Failed) -> None:
        if message.kind == "interrupt":
            self._stopped()
        elif message.kind == "input":
            self._raised[rank] = message.message
            self._fail(Weight.RAISED, InputError(message.message))
        else:
            self._raised[rank] = message.message
            self._raised_on(rank, message.message, message.traceback)
        self._interrupt()  # the others may wait for this one for ever

    def _on_lost(self, rank: int | None, others: frozenset[int]) -> None:
        gone = frozenset(self._ranks.hellos) if rank is None else others | {rank}
        at_rest = self._beginning.never_on(gone)
        if self._run.stop_level > (0 if at_rest else 2):
            self._failure = None  # whatever else went wrong, this end was asked for
            self._stopped(REPLACED)
        elif at_rest:
            self._died_at_rest = at_rest
            died = self._loss(rank if rank is None or rank in at_rest else at_rest[0])
            self._failure = Failure(Weight.DEATH, say_more(died, AT_REST))
        elif rank in self._raised:  # what it raised came first, and is why it is gone
            self._stopped(REPLACED)
        else:
            # What MPI copies straight out of a process that is gone arrives as if all were well, as garbage: what the
            # others make of it is told, but is no cause.
            raised = [f"rank {other} raised {what}" for other, what in self._raised.items()]
            self._fail(Weight.DEATH, self._loss(rank), "; ".join([*raised, REPLACED]))
        self._ranks.kill()

    def _loss(self, rank: int | None) -> LabError:
        """That a rank is gone, or the whole launch, and why."""
        if rank is None:
            return PoolError(f"mpiexec ended and took all ranks with it: {self._ranks.ends.of_launcher()}")
        hello = self._ranks.hellos[rank]
        return RankFailure(rank, hello.host, self._ranks.ends.of_rank(hello))

    def _on_stop(self, level: int) -> None:
        if level > 2:
            self._ranks.kill()  # its Lost follows
        elif level == 2 or not self._job.is_cooperative:
            self._interrupt()
        elif self._is_sent:
            for rank in self.pending:
                self._ranks.send(rank, wire.Stop(self._job.id))
        else:
            self._interrupt()

    def _interrupt(self) -> None:
        if self._is_interrupted:
            return
        self._is_interrupted = True
        if not self._is_sent:
            self._fail(Weight.STOP, RunStopped("stopped before it began"))
            self.pending.clear()
        for rank in self.pending:
            self._ranks.send(rank, wire.Stop(self._job.id, hard=True))
        self._deadline = time.monotonic() + (ANSWER_SECONDS if self._run.stop_level else ECHO_SECONDS)

    def _stopped(self, more: str = "") -> None:
        self._fail(Weight.STOP, RunStopped("stopped"), more)

    def _raised_on(self, rank: int, said: str, traceback: str | None = None) -> None:
        error = RankFailure(rank, self._ranks.hellos[rank].host, said, traceback)
        self._fail(Weight.MPI_RAISED if is_of_mpi(error) else Weight.RAISED, error)

    def _fail(self, weight: Weight, new: LabError, more: str = "") -> None:
        told = weightier(self._failure, Failure(weight, new))
        self._failure = Failure(told.weight, say_more(told.error, more)) if more else told
