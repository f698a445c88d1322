"""One launch of ranks, seen from the kernel: the guard, the connections, and the thread that reads them.

Everything the ranks say is put into one mailbox, in order, as (rank, message); what to make of it is the pool's
business.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import queue
import re
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from ..errors import PoolError
from ..hardware.cgroups import oom_kills
from . import wire
from .forking import Nursery
from .launch import Launch, rank_environment
from .meeting import Arrival, Door, make_directory, meeting_file
from .parcel import machine

START_SECONDS = 120.0
"""How long ranks may take to be there. Importing torch is most of it, and a cold disk is slow."""
LEAVE_SECONDS = 1.5
"""How long ranks may take to leave by themselves."""
SURVEY_SECONDS = 0.5
"""A rank that has not told by then how it is sits in a call that keeps Python's lock, or is stopped."""
LATE_SECONDS = 1.0
"""How long what a rank on another host printed before its end may come after the news of it."""
CHUNK = 1 << 16


@dataclass(frozen=True)
class Printed:
    """Whole lines that a rank has printed."""

    stream: str
    text: str


@dataclass(frozen=True)
class Unreadable:
    """The rank sent something that cannot be opened here: an object of a class that this process has not."""

    why: str


@dataclass(frozen=True)
class Lost:
    """The rank is gone, or (rank None) the whole launch."""


Mailbox = queue.SimpleQueue[tuple[int | None, Any]]


@dataclass
class _Lines:
    """Bytes to whole lines of text; what is left of a line waits for its end."""

    decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))
    pending: str = ""

    def feed(self, data: bytes, *, last: bool = False) -> str:
        text = self.pending + self.decoder.decode(data, final=last)
        whole, newline, self.pending = text.rpartition("\n")
        if last and self.pending:
            whole, newline, self.pending = whole + newline + self.pending, "\n", ""
        return whole + newline


class RankSet:
    """M ranks, started together by one launcher under a guard; they end together.

    Parameters
    ----------
    workers
        How many ranks.
    mailbox
        Where (rank, message) is put: `wire` messages, `Printed`, `Lost`.
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
    """

    def __init__(self, workers: int, mailbox: Mailbox, launch: Launch, nursery: Nursery | None = None) -> None:
        self.workers, self.started = workers, 0.0
        self.reason: str | None = None
        self.hellos: dict[int, wire.Hello] = {}
        self.is_lost = False
        self.launcher_output: deque[str] = deque(maxlen=200)
        self._mailbox, self._launch, self._nursery = mailbox, launch, nursery
        self._controls: dict[int, Connection] = {}
        self._sending: dict[int, threading.Lock] = {}
        self._selector = selectors.DefaultSelector()
        self._lines: dict[tuple[int, str], _Lines] = {}
        self._streams: dict[tuple[int, str], socket.socket] = {}
        self._reader: threading.Thread | None = None
        self._telling = threading.Lock()
        self._told: dict[int, wire.Told] = {}
        self._answered = threading.Event()
        self._oom_kills: int | None = None
        self._directory = Path()
        self._guard: subprocess.Popen[bytes]

    def start(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Launch, and wait until every rank has connected.

        Raises
        ------
        InputError
            When the hosts have no room for so many.
        PoolError
            When the launcher is not there, ends early, or starts something else than it was asked to; when `cancelled`.
        """
        command, address = self._launch.command(self.workers), self._launch.address()
        try:
            self._start(command, address, cancelled)
        except OSError as error:  # no room for a file, a process, a descriptor; a rank that died while it was greeted
            raise PoolError(f"the ranks cannot be started: {error.strerror or error}") from error

    def _start(self, command: list[str], address: str | None, cancelled: Callable[[], bool]) -> None:
        rank = [sys.executable, "-m", "cooptim_lab.ranks.rank"]
        self._directory = make_directory()
        told = meeting_file(self._directory)
        if self._launch.is_here:
            rank, told = [*rank, str(self._directory)], Path(os.devnull)
            if self._nursery is not None:
                if self._nursery.wait_until_ready(cancelled):
                    rank = self._nursery.rank_command(self._directory)
                elif not cancelled():
                    self.reason = self._nursery.reason()
        guard = [sys.executable, "-m", "cooptim_lab.ranks.guard", str(os.getpid()), str(self._directory), str(told)]
        self._oom_kills = oom_kills()
        try:
            listening = Door(self._directory, address)
        except OSError:
            shutil.rmtree(self._directory)
            raise
        with listening as door:
            self._guard = subprocess.Popen(
                [*guard, *command, *rank],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Kernel -> Interrupt signals the kernel's group; the ranks are told otherwise
                env=rank_environment(self._launch, self.workers),
            )
            try:
                self._welcome(door, cancelled)
            except BaseException:  # whatever ended the start, also an interrupt: nothing may be left running
                self.kill()
                raise
        self._watch()

    def send(self, rank: int, message: Any, patience: float = -1) -> None:
        """To one rank, from any thread. One that is gone is reported by its `Lost`, not here.

        `patience` is how many seconds to wait for others that send; negative: for ever.
        """
        if not self._sending[rank].acquire(timeout=patience):
            return
        try:
            with contextlib.suppress(OSError):
                self._controls[rank].send(message)
        finally:
            self._sending[rank].release()

    def close(self) -> None:
        """Let the ranks leave by themselves, for `LEAVE_SECONDS`, then end them. Returns when all is gone."""
        for rank in self._controls:
            self.send(rank, wire.Leave(), LEAVE_SECONDS / self.workers)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(LEAVE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the ranks at once. Returns when the guard has taken everything down."""
        self.is_lost = True
        self._tell_guard(("end",))
        for connection in self._controls.values():  # whoever is writing to a rank that does not read wakes up
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as same:
                same.shutdown(socket.SHUT_WR)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(10)
        if self._reader is None:
            self._close_all()
        elif self._reader is not threading.current_thread():
            self._reader.join(2)
        self._sweep()

    def _sweep(self) -> None:
        """The guard's work, unless it was itself killed."""
        for hello in self.hellos.values():
            for segment in hello.segments if hello.machine == machine() else ():
                Path(segment).unlink(missing_ok=True)
        shutil.rmtree(self._directory, ignore_errors=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(1)

    def cause_of_death(self, rank: int) -> str:
        """What mpiexec said of a rank that is gone, waiting a moment for it; a plain word where it said nothing."""
        pid = self.hellos[rank].pid
        for _ in range(25):
            status = None if self._nursery is None else self._nursery.ended.get(pid)
            if status is not None:
                code: int | None = os.waitstatus_to_exitcode(status)
            else:
                code = end_in_words_of_launcher("\n".join(self.launcher_output), pid)
            if code is not None:
                return describe_end(code, self._out_of_memory(rank))
            time.sleep(0.02)
        return " | ".join(["ended without a word", *list(self.launcher_output)[-2:]])

    def _out_of_memory(self, rank: int) -> bool | None:
        """Whether the system has ended processes for want of memory since the start; None where it is not known."""
        now = oom_kills()
        if self.hellos[rank].machine != machine() or now is None or self._oom_kills is None:
            return None
        # A launcher may have put the ranks where others count.
        return now > self._oom_kills or (False if self._launch.is_here else None)

    def survey(self) -> dict[int, wire.Told]:
        """How the ranks are, from those that answer in `SURVEY_SECONDS`."""
        self._told, self._answered = {}, threading.Event()
        for rank in self._controls:
            self.send(rank, wire.Ask(), SURVEY_SECONDS / self.workers)
        self._answered.wait(SURVEY_SECONDS)
        return dict(self._told)

    def _welcome(self, door: Door, cancelled: Callable[[], bool]) -> None:
        """Give every arrival its seat, three for each rank, watching for an early end."""
        assert self._guard.stdout is not None
        deadline = time.monotonic() + START_SECONDS
        os.set_blocking(self._guard.stdout.fileno(), False)
        while len(self._controls) < self.workers or len(self._streams) < 2 * self.workers:
            with contextlib.suppress(queue.Empty):
                self._seat(door.arrivals.get(timeout=0.05))
                continue
            if not self._read_launcher():
                said = " | ".join(dict.fromkeys(filter(is_telling, self.launcher_output))) or "nothing was printed"
                raise PoolError(f"the ranks ended before they were ready: {said}")
            if cancelled():
                raise PoolError("stopped while the ranks were starting")
            if time.monotonic() > deadline:
                said = " | ".join(self.launcher_output)
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
            connection.send(sys.path)
            self.hellos[rank], self._controls[rank], self._sending[rank] = hello, connection, threading.Lock()
            self._selector.register(connection, selectors.EVENT_READ, (rank, role))
            if hello.machine == machine():
                self._tell_guard(hello.segments)
        else:
            stream = socket.socket(fileno=os.dup(connection.fileno()))
            connection.close()
            stream.setblocking(False)
            other = self._streams.pop((rank, role), None)
            if other is not None:  # two believe to be this rank; their hello will tell why
                self._selector.unregister(other)
                other.close()
            self._streams[rank, role], self._lines[rank, role] = stream, _Lines()
            self._selector.register(stream, selectors.EVENT_READ, (rank, role))

    def _tell_guard(self, lines: tuple[str, ...]) -> None:
        assert self._guard.stdin is not None
        with self._telling, contextlib.suppress(OSError, ValueError):  # it has ended by itself, or the pipe is closed
            os.write(self._guard.stdin.fileno(), "".join(f"{line}\n" for line in lines).encode())

    def _watch(self) -> None:
        assert self._guard.stdout is not None
        self._selector.register(self._guard.stdout, selectors.EVENT_READ, (None, "launcher"))
        self._reader = threading.Thread(target=self._read, name="cooptim-reader", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Until the guard is gone: its output ends with it, whatever ended it."""
        try:
            self._read_all()
        except Exception as error:  # noqa: BLE001 - without this thread nobody would hear of the ranks' end
            self.launcher_output.append(f"reading from the ranks failed: {type(error).__name__}: {error}")
            self._tell_guard(("end",))
        self._end_reading()

    def _read_all(self) -> None:
        while True:
            for chosen, _ in self._selector.select():
                rank, role = chosen.data
                if role == "launcher":
                    if not self._read_launcher():
                        return
                elif role == "control":
                    self._read_control(rank, chosen.fileobj)  # type: ignore[arg-type]
                else:
                    self._read_stream(rank, role)

    def _read_control(self, rank: int, connection: Connection) -> None:
        try:
            message = connection.recv()
        except Exception as error:  # noqa: BLE001 - opening an object may raise anything
            if not isinstance(error, (EOFError, OSError)):
                self._mailbox.put((rank, Unreadable(f"{type(error).__name__}: {error}")))
                return
            self._selector.unregister(connection)
            self._drain(rank, LATE_SECONDS if self.hellos[rank].machine != machine() else 0.0)
            self._mailbox.put((rank, Lost()))
            return
        if isinstance(message, wire.Told):
            self._told[rank] = message
            if len(self._told) == self.workers:
                self._answered.set()
            return
        if isinstance(message, (wire.Finished, wire.Failed)):
            self._drain(rank)  # it flushed before it said so: all it printed is here
        self._mailbox.put((rank, message))

    def _drain(self, rank: int, patience: float = 0.0) -> None:
        """Deliver what a rank has printed; of one that is gone, wait so long for the end of what is on its way."""
        deadline = time.monotonic() + patience
        for role in ("stdout", "stderr"):
            while self._read_stream(rank, role) or self._comes_late(self._streams[rank, role], deadline):
                pass
            self._deliver(rank, role, self._lines[rank, role].feed(b"", last=True))

    def _comes_late(self, stream: socket.socket, deadline: float) -> bool:
        left = deadline - time.monotonic()
        return left > 0 and stream in self._selector.get_map() and bool(wait([stream], left))

    def _read_stream(self, rank: int, role: str) -> bool:
        """Read once what a rank has printed; False when there is nothing (more)."""
        stream = self._streams[rank, role]
        try:
            data = stream.recv(CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # its host is gone
            data = b""
        if not data:
            if stream in self._selector.get_map():
                self._selector.unregister(stream)
            return False
        self._deliver(rank, role, self._lines[rank, role].feed(data))
        return True

    def _deliver(self, rank: int, role: str, text: str) -> None:
        if text:
            self._mailbox.put((rank, Printed(role, text)))

    def _read_launcher(self) -> bool:
        """Keep what mpiexec has printed; False when it and the guard have ended."""
        assert self._guard.stdout is not None
        data = self._guard.stdout.read(CHUNK)
        if data is None:
            return True
        self.launcher_output.extend(line for line in data.decode(errors="replace").splitlines() if line.strip())
        return bool(data)

    def _end_reading(self) -> None:
        self.is_lost = True
        for rank in self._controls:
            self._drain(rank)
        self._close_all()
        self._sweep()
        self._mailbox.put((None, Lost()))

    def _close_all(self) -> None:
        self._selector.close()
        for connection in self._controls.values():
            connection.close()
        for stream in self._streams.values():
            stream.close()
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        self._guard.stdout.close()
        with self._telling:
            self._guard.stdin.close()


KILLING_SIGNALS = {int(s) for s in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE)}


def is_telling(line: str) -> bool:
    """Whether a line of a launcher's is more than the frame that it draws around the bad news."""
    return not line.startswith(("=", "---", "YOUR APPLICATION")) and line.strip() != ""


def end_in_words_of_launcher(said: str, pid: int) -> int | None:
    """How a process ended, in the words of MPICH's or Open MPI's launcher: its exit code, or minus the signal."""
    mpich = re.search(rf"PID {pid} RUNNING AT.*?EXIT CODE: (\d+)", said, re.DOTALL)
    if mpich:
        code = int(mpich[1])  # it says a signal's number and an exit code alike
        return -code if code in KILLING_SIGNALS else code
    open_mpi = re.search(rf"PID\s+{pid}\s+on\s+node\s+\S+\s+exited\s+on\s+signal\s+(\d+)", said)
    return -int(open_mpi[1]) if open_mpi else None


def describe_end(code: int, out_of_memory: bool | None = None) -> str:
    """How a process ended: its exit code, or minus the number of the signal that ended it."""
    if code >= 0:
        return f"ended with exit code {code}"
    why = {
        True: ": by the system's OOM killer, for want of memory",
        False: ": from outside, not for want of memory",
        None: ": by hand, or by the system for want of memory",
    }[out_of_memory]
    return f"was killed ({signal.Signals(-code).name}{why if -code == signal.SIGKILL else ''})"
