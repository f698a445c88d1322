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
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any

from ..errors import PoolError
from ..hardware import find_mpiexec
from . import wire
from .forking import Nursery

START_SECONDS = 120.0
"""How long ranks may take to be there. Importing torch is most of it, and a cold disk is slow."""
LEAVE_SECONDS = 1.5
"""How long ranks may take to leave by themselves."""
CHUNK = 1 << 16


@dataclass(frozen=True)
class Printed:
    """Whole lines that a rank has printed."""

    stream: str
    text: str


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
    """M ranks, started together by mpiexec under a guard; they end together.

    Parameters
    ----------
    workers
        How many ranks.
    mailbox
        Where (rank, message) is put: `wire` messages, `Printed`, `Lost`.
    nursery
        What ranks are forked from; None: each starts as a process of its own.
    """

    def __init__(self, workers: int, mailbox: Mailbox, nursery: Nursery | None = None) -> None:
        self.workers, self.started = workers, 0.0
        self.hellos: dict[int, wire.Hello] = {}
        self.is_lost = False
        self.launcher_output: deque[str] = deque(maxlen=200)
        self._mailbox, self._nursery = mailbox, nursery
        self._controls: dict[int, Connection] = {}
        self._selector = selectors.DefaultSelector()
        self._lines: dict[tuple[int, str], _Lines] = {}
        self._streams: dict[tuple[int, str], socket.socket] = {}
        self._reader: threading.Thread | None = None
        self._telling = threading.Lock()
        self._directory = Path()
        self._guard: subprocess.Popen[bytes]

    def start(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Launch, and wait until every rank has connected.

        Raises
        ------
        PoolError
            When mpiexec is not there, ends early, or starts something else than it was asked to; when `cancelled`.
        """
        mpiexec = find_mpiexec()
        if mpiexec is None:
            raise PoolError("mpiexec not found: pip install mpich, or load your cluster's MPI module")
        self._directory = wire.make_directory()
        rank = [sys.executable, "-m", "cooptim_lab.ranks.rank", str(self._directory)]
        if self._nursery is not None and self._nursery.wait_until_ready(cancelled):
            rank = self._nursery.rank_command(self._directory)
        guard = [sys.executable, "-m", "cooptim_lab.ranks.guard", str(os.getpid()), str(self._directory)]
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(wire.socket_path(self._directory)))
            wire.socket_path(self._directory).chmod(0o600)
            listener.listen(3 * self.workers)
            self._guard = subprocess.Popen(
                [*guard, str(mpiexec), "-n", str(self.workers), *rank],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Kernel -> Interrupt signals the kernel's group; the ranks are told otherwise
                env=rank_environment(),
            )
            try:
                self._welcome(listener, cancelled)
            except BaseException:  # whatever ended the start, also an interrupt: nothing may be left running
                self.kill()
                raise
        self._watch()

    def send(self, rank: int, message: Any) -> None:
        """To one rank. One that is gone is reported by its `Lost`, not here."""
        with contextlib.suppress(OSError):
            self._controls[rank].send(message)

    def close(self) -> None:
        """Let the ranks leave by themselves, for `LEAVE_SECONDS`, then end them. Returns when all is gone."""
        for rank in self._controls:
            self.send(rank, wire.Leave())
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._guard.wait(LEAVE_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the ranks at once. Returns when the guard has taken everything down."""
        self.is_lost = True
        self._tell_guard(("end",))
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
            for segment in hello.segments:
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
                return describe_end(os.waitstatus_to_exitcode(status))
            found = re.search(rf"PID {pid} RUNNING AT.*?EXIT CODE: (\d+)", "\n".join(self.launcher_output), re.DOTALL)
            if found:
                code = int(found[1])  # mpiexec says a signal's number and an exit code alike
                return describe_end(-code if code in KILLING_SIGNALS else code)
            time.sleep(0.02)
        return "ended without a word"

    def _welcome(self, listener: socket.socket, cancelled: Callable[[], bool]) -> None:
        """Accept and authenticate three connections a rank, watching for an early end."""
        assert self._guard.stdout is not None
        key, deadline = wire.read_key(self._directory), time.monotonic() + START_SECONDS
        os.set_blocking(self._guard.stdout.fileno(), False)
        with selectors.DefaultSelector() as ready:
            ready.register(listener, selectors.EVENT_READ)
            ready.register(self._guard.stdout, selectors.EVENT_READ)
            while len(self._controls) < self.workers:
                for chosen, _ in ready.select(0.1):
                    if chosen.fileobj is listener:
                        self._accept(listener, key)
                    elif not self._read_launcher():
                        said = " | ".join(self.launcher_output) or "nothing was printed"
                        raise PoolError(f"the ranks ended before they were ready: {said}")
                if cancelled():
                    raise PoolError("stopped while the ranks were starting")
                if time.monotonic() > deadline:
                    raise PoolError(
                        f"only {len(self._controls)} of {self.workers} ranks were ready after {START_SECONDS:.0f} s"
                    )
        self.started = time.time()

    def _accept(self, listener: socket.socket, key: bytes) -> None:
        accepted, _ = listener.accept()
        connection = Connection(accepted.detach())
        try:
            deliver_challenge(connection, key)
            answer_challenge(connection, key)
            role, rank = connection.recv()
        except (AuthenticationError, EOFError, OSError):
            connection.close()  # not one of ours, or one that died; the ranks that are missing tell
            return
        if role == "control":
            hello: wire.Hello = connection.recv()
            if hello.size != self.workers:
                raise PoolError(
                    f"asked for {self.workers} ranks, each found {hello.size}: mpiexec and mpi4py belong to "
                    f"different MPI libraries (mpi4py uses {hello.library}); install one of them only"
                )
            connection.send(sys.path)
            self.hellos[rank], self._controls[rank] = hello, connection
            self._selector.register(connection, selectors.EVENT_READ, (rank, role))
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
        while True:
            for chosen, _ in self._selector.select():
                rank, role = chosen.data
                if role == "launcher":
                    if not self._read_launcher():
                        self._end_reading()
                        return
                elif role == "control":
                    self._read_control(rank, chosen.fileobj)  # type: ignore[arg-type]
                else:
                    self._read_stream(rank, role)

    def _read_control(self, rank: int, connection: Connection) -> None:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            self._selector.unregister(connection)
            self._drain(rank)
            self._mailbox.put((rank, Lost()))
            return
        if isinstance(message, (wire.Finished, wire.Failed)):
            self._drain(rank)  # it flushed before it said so: all it printed is here
        self._mailbox.put((rank, message))

    def _drain(self, rank: int) -> None:
        for role in ("stdout", "stderr"):
            while self._read_stream(rank, role):
                pass
            self._deliver(rank, role, self._lines[rank, role].feed(b"", last=True))

    def _read_stream(self, rank: int, role: str) -> bool:
        """Read once what a rank has printed; False when there is nothing (more)."""
        stream = self._streams[rank, role]
        try:
            data = stream.recv(CHUNK)
        except (BlockingIOError, ConnectionError):
            return False
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


def describe_end(code: int) -> str:
    """How a process ended: its exit code, or minus the number of the signal that ended it."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    hint = ": by hand, or by the system for want of memory" if -code == signal.SIGKILL else ""
    return f"was killed ({name}{hint})"


def rank_environment() -> dict[str, str]:
    """The kernel's environment, but for the notebook's own drawing backend, which a rank cannot use."""
    return {**os.environ, "MPLBACKEND": "agg"}
