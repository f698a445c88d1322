"""One program on its way through the ranks: sent, heard out, stopped, and how it ended.

What the ranks say comes through the pool's mailbox; a job makes events and an end of its run of it. A rank that raises,
dies or does not answer ends the job for all.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cloudpickle

from ..errors import InputError, LabError, PoolError, RankFailure, RunStopped
from ..runs.events import Output
from ..runs.run import Run
from . import wire
from .cpus import share_cpus
from .mailbox import Closing, Lost, Mailbox, Printed, Unreadable
from .parcel import Parcel, Sender
from .rankset import RankSet
from .shipping import Shipment

ANSWER_SECONDS = 2.0
"""A rank that has not answered an interrupt by then sits in a call that Python cannot leave: all ranks are replaced."""

REPLACED = "all ranks are replaced, and names that cells have left in them are lost"

Finish = Callable[[Run[Any], list[Any], bool], None]
"""Makes the run's result of the values of all ranks, in their order; the flag says whether it was asked to stop."""


@dataclass
class Job:
    """A program for `workers` ranks, on behalf of a run; see `RankPool.submit` for what the fields mean."""

    id: int
    run: Run[Any]
    calls: tuple[tuple[Parcel, ...], ...]
    sender: Sender
    workers: int
    finish: Finish
    is_cooperative: bool
    timeout: float | None = None
    rescue: Callable[[LabError], bool] | None = None
    pending: set[int] = field(default_factory=set)
    """The ranks that have not ended it."""
    failure: LabError | None = None
    _values: dict[int, Any] = field(default_factory=dict)
    _raised: dict[int, str] = field(default_factory=dict)
    """What the program raised, by rank."""
    _deadline: float | None = None
    _stop_level: int = 0
    """How far the wish to stop was heard."""
    _is_interrupted: bool = False
    _has_begun: bool = False

    def execute(self, ranks: RankSet, mailbox: Mailbox, epoch: int) -> None:
        """Run it on the first of these ranks, to its end: the run's result, or `failure`, which is for the pool."""
        self.pending = set(range(self.workers))
        shipment = Shipment(self.id, self.calls, ranks)
        shipment.begin()
        self._start(ranks, shipment, epoch)
        try:
            self._attend(ranks, mailbox, shipment, epoch)
        finally:
            if not shipment.end(ANSWER_SECONDS):
                self._fail(RunStopped("stopped"), f"a rank does not take its data; {REPLACED}")
                ranks.kill()
            for rank in range(self.workers):
                ranks.send(rank, wire.Rest())
        if self.failure is None:
            self.finish(self.run, [self._values[rank] for rank in range(self.workers)], self.run.stop_level > 0)

    def _start(self, ranks: RankSet, shipment: Shipment, epoch: int) -> None:
        """Send the program, unless buffers are still on their way: then it waits for the last."""
        if not shipment.is_complete or self._has_begun or self._is_interrupted:
            return
        self._has_begun = True
        if self.timeout is not None:
            self._deadline = time.monotonic() + self.timeout
        hellos = [ranks.hellos[rank] for rank in range(self.workers)]
        for rank, threads in enumerate(share_cpus(hellos)):
            ranks.send(rank, wire.Start(self.id, epoch, self.workers, threads, shipment.parcels(rank)))

    def _attend(self, ranks: RankSet, mailbox: Mailbox, shipment: Shipment, epoch: int) -> None:
        """Hear the ranks out until every one has returned, failed or is gone."""
        while self.pending:
            # Looked at before every message: those of a chatty program must not keep the clock or the user waiting.
            if self._stop_level < self.run.stop_level:
                self._stop_level = self.run.stop_level
                self._on_stop(ranks, self._stop_level)
            left = None if self._deadline is None else self._deadline - time.monotonic()
            if left is not None and left <= 0:
                if self._on_late(ranks):
                    return
                continue
            try:
                rank, message = mailbox.get(timeout=left)
            except queue.Empty:
                continue
            match message:
                case wire.Stored(job=self.id, file=file, path=path) if rank is not None:
                    shipment.arrived(rank, file, path)
                    self._start(ranks, shipment, epoch)
                case wire.Happened(job=self.id, events=events):
                    for event in events:
                        self.run.post(event)
                case Printed(stream=stream, text=text):
                    self.run.post(Output(rank=rank, stream=stream, text=text))
                case wire.Finished(job=self.id, value=value) if rank is not None:
                    self._on_finished(ranks, rank, value)
                case wire.Failed(job=self.id) if rank is not None:
                    self.pending.discard(rank)
                    self._on_failed(ranks, rank, message)
                case Unreadable(why=why) if rank is not None:
                    said = f"what it sent cannot be opened in the notebook: {why}"
                    self._fail(RankFailure(rank, ranks.hellos[rank].host, said))
                    self._interrupt(ranks)
                case Closing():
                    self._fail(RunStopped("stopped: the pool was closed"))
                    ranks.kill()
                    return
                case Lost():
                    self._on_lost(ranks, rank)
                    return

    def _on_late(self, ranks: RankSet) -> bool:
        """The time is up: the program's own, or that for an answer to an interrupt. True when the ranks are ended."""
        if self._is_interrupted:
            self._fail(RunStopped("stopped"), f"a rank did not answer; {REPLACED}")
            ranks.kill()
            return True
        late = ", ".join(map(str, sorted(self.pending)))
        self.failure = PoolError(f"not done after {self.timeout:g} s: rank {late} was interrupted")
        self._interrupt(ranks)
        return False

    def _on_finished(self, ranks: RankSet, rank: int, value: bytes) -> None:
        self.pending.discard(rank)
        try:
            self._values[rank] = cloudpickle.loads(value)
        except Exception as error:  # noqa: BLE001 - opening an object may raise anything
            said = f"its value cannot be opened in the notebook: {type(error).__name__}: {error}"
            self._fail(RankFailure(rank, ranks.hellos[rank].host, said))
            self._interrupt(ranks)

    def _on_failed(self, ranks: RankSet, rank: int, message: wire.Failed) -> None:
        if message.kind == "interrupt":
            self._fail(RunStopped("stopped"))
        elif message.kind == "input":
            self._raised[rank] = message.message
            self._fail(InputError(message.message))
        else:
            self._raised[rank] = message.message
            self._fail(RankFailure(rank, ranks.hellos[rank].host, message.message, message.traceback))
        self._interrupt(ranks)  # the others may wait for this one for ever

    def _on_lost(self, ranks: RankSet, rank: int | None) -> None:
        if self.run.stop_level > 2:
            self.failure = None  # whatever else went wrong, this end was asked for
            self._fail(RunStopped("stopped"), REPLACED)
        elif rank is None:
            said = ranks.ends.of_launcher()
            self._fail(PoolError(f"mpiexec ended and took all ranks with it: {said}"), REPLACED)
        else:
            said = ranks.ends.of_rank(ranks.hellos[rank])
            if self._raised and rank not in self._raised and isinstance(self.failure, RankFailure | InputError):
                # What MPI copies straight out of a process that is gone arrives as if all were well, as garbage: what
                # the others make of it is no cause.
                said += "".join(f"; rank {other} raised {what}" for other, what in self._raised.items())
                self.failure = None
            self._fail(RankFailure(rank, ranks.hellos[rank].host, said), REPLACED)
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
        """Note a failure: the first one counts, but a real one before what a stop, or a rank's loss, has caused."""
        known = self.failure
        is_effect = isinstance(known, RunStopped) or (is_of_mpi(known) and not is_of_mpi(new))
        failure = new if known is None or is_effect else known
        self.failure = _say_more(failure, more) if more else failure


def is_of_mpi(error: LabError | None) -> bool:
    """Whether MPI itself raised on a rank: that often means that another rank is gone."""
    return isinstance(error, RankFailure) and error.message.startswith("mpi4py.MPI.Exception")


def _say_more(failure: LabError, more: str) -> LabError:
    """The same failure, with `more` at the end of its message."""
    if isinstance(failure, RankFailure):
        said = f"{failure.message}; {more}"
        return RankFailure(failure.rank, failure.host, said, failure.remote_traceback)
    return type(failure)(f"{failure}; {more}")


def give_values(run: Run[Any], values: list[Any], stopped: bool) -> None:
    """The plainest `Finish`: the result is the ranks' values, in order."""
    run.finish(values)


def pack_calls(
    program: Callable[..., Any], arguments: Mapping[str, Any], per_rank: Sequence[Mapping[str, Any]]
) -> tuple[tuple[tuple[Parcel, ...], ...], Sender]:
    """What each rank is sent, in their order, and who keeps it: what all need is packed once.

    Raises
    ------
    InputError
        When the program or its arguments cannot be sent.
    """
    sender = Sender()
    try:
        shared = sender.pack((program, dict(arguments)))
        return tuple((shared, *([sender.pack(dict(own))] if own else [])) for own in per_rank), sender
    except BaseException:  # an interrupt too: the memory files are nobody's then
        sender.close()
        raise
