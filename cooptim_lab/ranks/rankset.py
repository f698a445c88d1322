"""One launch of ranks, seen from the kernel: started, spoken to, ended together.

Who reads what they say is reading.py; what to make of it, and of their end, is the pool's business.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from ..errors import PoolError
from . import starting, wire
from .ends import Ends
from .forking import Nursery
from .guarding import Guard
from .launch import Launch, rank_environment
from .mailbox import Mailbox
from .meeting import Arrival, Door, meeting_file
from .parcel import machine
from .places import make_directory
from .reading import Reader
from .room import check_shared_memory, make_room_for_connections
from .survey import SURVEY_SECONDS, Survey

START_SECONDS = 120.0
"""How long ranks may take to be there. Importing torch is most of it, and a cold disk is slow."""
LEAVE_SECONDS = 1.5
"""How long ranks may take to leave by themselves."""
END_SECONDS = 10.0
"""How long a guard may take to take everything down, which takes a fraction of it."""


class RankSet:
    """M ranks, started together by one launcher under a guard; they end together.

    Parameters
    ----------
    workers
        How many ranks.
    mailbox
        Where everything they say is put.
    launch
        Where they run, and what starts them.
    nursery
        What ranks are forked from; None: each starts as a process of its own.

    Attributes
    ----------
    hellos : dict[int, wire.Hello]
        What each rank said of itself, by rank.
    reason : str | None
        Why ranks started as processes of their own although there is a nursery.
    imported : dict[str, int]
        The user's files that ranks have imported (see `imported`).
    ends : Ends
        Why those that are gone have ended.
    """

    def __init__(self, workers: int, mailbox: Mailbox, launch: Launch, nursery: Nursery | None = None) -> None:
        self.workers, self.started = workers, 0.0
        self.reason: str | None = None
        self.hellos: dict[int, wire.Hello] = {}
        self.imported: dict[str, int] = {}
        self.ends: Ends
        self._mailbox, self._launch, self._nursery = mailbox, launch, nursery
        self._controls: dict[int, Connection] = {}
        self._sending: dict[int, threading.Lock] = {}
        self._is_ended = False
        self._directory = Path()
        self._guard: Guard
        self._reader: Reader

    @property
    def is_lost(self) -> bool:
        """Whether a rank is gone, or all are or soon will be: nothing can be run on it any more."""
        return self._is_ended or self._reader.is_broken

    def start(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Launch, and wait until every rank has connected.

        Raises
        ------
        InputError
            When the hosts have no room for so many.
        PoolError
            When the launcher is not there, ends early, or starts something else than it was asked to; when `cancelled`;
            when this machine's shared memory, or what this process may have open, has no room.
        """
        command, address = self._launch.command(self.workers), self._launch.address()
        make_room_for_connections(self.workers)
        if self._launch.is_here:
            check_shared_memory(self.workers)
        try:
            self._start(command, address, cancelled)
        except OSError as error:  # no room for a file, a process, a descriptor; a rank that died while it was greeted
            raise PoolError(f"the ranks cannot be started: {error.strerror or error}") from error

    def _start(self, command: list[str], address: str | None, cancelled: Callable[[], bool]) -> None:
        rank = starting.command("rank")
        self._directory = make_directory()
        told = meeting_file(self._directory)
        if self._launch.is_here:
            rank, told = [*rank, str(self._directory)], Path(os.devnull)
            if self._nursery is not None:
                if self._nursery.wait_until_ready(cancelled):
                    rank = self._nursery.rank_command(self._directory)
                elif not cancelled():
                    self.reason = self._nursery.reason()
        try:
            listening = Door(self._directory, address)
        except OSError:
            shutil.rmtree(self._directory)
            raise
        with listening as door:
            self._guard = Guard(self._directory, told, [*command, *rank], rank_environment(self._launch, self.workers))
            self._reader = Reader(self._guard, self._mailbox, self._sweep)
            self.ends = Ends(self._guard.said, self._nursery, is_here=self._launch.is_here)
            try:
                self._welcome(door, cancelled)
            except BaseException:  # whatever ended the start, also an interrupt: nothing may be left running
                self.kill()
                raise
        self._reader.start()

    def expect(self, workers: int) -> None:
        """So many ranks are about to begin a job, whose end each will tell."""
        self._reader.pending = workers

    def send_all(self, ranks: Iterable[int], message: Any) -> None:
        """The same to some ranks, made once: a fifth of what a small job costs the notebook was to make it for each."""
        made = ForkingPickler.dumps(message)
        for rank in ranks:
            self._send(rank, made)

    def send(self, rank: int, message: Any, patience: float = -1) -> None:
        """To one rank, from any thread. One that is gone is reported by its `Lost`, not here.

        `patience` is how many seconds to wait for others that send; negative: for ever.
        """
        self._send(rank, ForkingPickler.dumps(message), patience)

    def _send(self, rank: int, made: memoryview, patience: float = -1) -> None:
        if not self._sending[rank].acquire(timeout=patience):
            return
        try:
            with contextlib.suppress(OSError):
                self._controls[rank].send_bytes(made)
        finally:
            self._sending[rank].release()

    def close(self) -> None:
        """Let the ranks leave by themselves, for `LEAVE_SECONDS`, then end them. Returns when all is gone."""
        if not self.is_lost:
            for rank in self._controls:
                self.send(rank, wire.Leave(), LEAVE_SECONDS / self.workers)
            self._guard.wait(LEAVE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the ranks at once. Returns when the guard has taken everything down."""
        self._is_ended = True
        self._guard.end()
        for connection in self._controls.values():  # whoever is writing to a rank that does not read wakes up
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as same:
                same.shutdown(socket.SHUT_WR)
        self._guard.wait(END_SECONDS)
        self._reader.end(2)
        self._sweep()

    def _sweep(self) -> None:
        """The guard's work, unless it was itself killed."""
        for hello in self.hellos.values():
            for segment in hello.segments if hello.machine == machine() else ():
                Path(segment).unlink(missing_ok=True)
        shutil.rmtree(self._directory, ignore_errors=True)
        self._guard.wait(1)

    def survey(self) -> dict[int, wire.Told]:
        """How the ranks are, from those that answer in `SURVEY_SECONDS`."""
        survey = self._reader.survey = Survey(self.workers)
        for rank in self._controls:
            self.send(rank, wire.Ask(), SURVEY_SECONDS / self.workers)
        return survey.wait()

    def _welcome(self, door: Door, cancelled: Callable[[], bool]) -> None:
        """Give every arrival its seat, three for each rank, watching for an early end."""
        deadline = time.monotonic() + START_SECONDS
        while not self._reader.has_all(self.workers):
            with contextlib.suppress(queue.Empty):
                self._seat(door.arrivals.get(timeout=0.05))
                continue
            if self._guard.read() is None:
                raise PoolError(f"the ranks ended before they were ready: {self.ends.before_ready()}")
            if cancelled():
                raise PoolError("stopped while the ranks were starting")
            if time.monotonic() > deadline:
                said = " | ".join(self._guard.said)
                raise PoolError(
                    f"only {len(self._controls)} of {self.workers} ranks were ready after {START_SECONDS:.0f} s {said}"
                )
        self.started = time.time()

    def _seat(self, arrival: Arrival) -> None:
        rank, role, connection = arrival.rank, arrival.role, arrival.connection
        if arrival.hello is not None:
            hello = arrival.hello
            if hello.size != self.workers:
                raise PoolError(
                    f"asked for {self.workers} ranks, each found {hello.size}: mpiexec and mpi4py belong to "
                    f"different MPI libraries (mpi4py uses {hello.library}); install one of them only"
                )
            self.hellos[rank], self._controls[rank], self._sending[rank] = hello, connection, threading.Lock()
            is_here = hello.machine == machine()
            self._reader.add_control(rank, connection, is_here=is_here)
            if is_here:
                self._guard.remember(hello.segments)
        else:
            self._reader.add_stream(rank, role, connection)
