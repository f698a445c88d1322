"""The thread that reads what the ranks of one launch say and print, and notices their end.

A rank that has forked is at its end when the process is: its child holds the same connections. Then what it has sent is
read still, and no more.

Everything is put into the mailbox, in order; what to make of it is not known here, nor is anything sent.
"""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait

from . import wire
from .guarding import CHUNK, Guard
from .living import handle_of_peer, is_over
from .mailbox import Lost, Mailbox, Printed, Printing, Unreadable
from .sieve import Sieve
from .spawned import Spawned
from .stream import Stream
from .survey import Survey

LATE_SECONDS = 1.0
"""How long what a rank on another host printed before its end may come after the news of it."""
SPAWNED_SECONDS, QUIET_SECONDS = 0.5, 0.03
"""How long what MPI has started for a program may go on when the program has ended, for its output to be of the same
run; and how long what it has printed may be on its way, by two processes of the launcher's."""
LAST_MESSAGES = 10
"""A rank that died at rest has left fewer; one that has more to say is at work."""
STREAMS = ("stdout", "stderr")


class Reader:
    """Reads three connections for each rank, and what the launcher prints, until the guard is gone.

    Parameters
    ----------
    guard
        Its output ends with the launch, whatever ended it.
    mailbox
        Where (rank, message) is put: messages of `wire`, and those of `mailbox` that a reader has.
    clean_up
        Called when the launch has ended, before that is told.

    Attributes
    ----------
    is_broken : bool
        Whether a rank is gone, or the whole launch.
    pending : int
        Ranks that have not ended the job: set before it is sent.
    survey : Survey
        Hears what ranks tell of themselves.
    """

    def __init__(self, guard: Guard, mailbox: Mailbox, clean_up: Callable[[], None]) -> None:
        self.is_broken, self.pending = False, 0
        self.survey = Survey(0)
        self._guard, self._mailbox, self._clean_up = guard, mailbox, clean_up
        self._selector = selectors.DefaultSelector()
        self._controls: dict[int, Connection] = {}
        self._alive: set[int] = set()
        self._handles: dict[int, int] = {}
        self._far: set[int] = set()
        self._streams: dict[tuple[int, str], Stream] = {}
        self._due: set[tuple[int, str]] = set()  # whose unfinished line is to be told: of many ranks, most have none
        self._sieve = Sieve()
        self._spawned: Spawned | None = None
        self._thread: threading.Thread | None = None

    def add_control(self, rank: int, connection: Connection, *, is_here: bool) -> None:
        """A rank's messages are to be read from here; `is_here` on this machine, where nothing comes late."""
        self._controls[rank] = connection
        self._alive.add(rank)
        if not is_here:
            self._far.add(rank)
        self._selector.register(connection, selectors.EVENT_READ, (rank, "control"))
        try:
            handle = handle_of_peer(connection.fileno())
        except ProcessLookupError:
            self._end_control(rank)
            return
        if handle is not None:
            self._handles[rank] = handle
            self._selector.register(handle, selectors.EVENT_READ, (rank, "process"))

    def add_stream(self, rank: int, role: str, connection: Connection) -> None:
        """What a rank prints is to be read from here; `role` is one of `STREAMS`."""
        stream = Stream(connection)
        other = self._streams.pop((rank, role), None)
        if other is not None:  # two believe to be this rank; their hello will tell why
            self._selector.unregister(other.socket)
            other.socket.close()
        self._streams[rank, role] = stream
        self._selector.register(stream.socket, selectors.EVENT_READ, (rank, role))

    def has_all(self, workers: int) -> bool:
        """Whether so many ranks have all their connections."""
        return len(self._controls) >= workers and len(self._streams) >= len(STREAMS) * workers

    def start(self) -> None:
        """Read, from now on."""
        self._selector.register(self._guard, selectors.EVENT_READ, (None, "launcher"))
        self._spawned = Spawned(self._guard.pid)
        self._thread = threading.Thread(target=self._read, name="cooptim-reader", daemon=True)
        self._thread.start()

    def end(self, seconds: float) -> None:
        """Wait for the thread's end, so long at the most; where it has never begun, close what it would have read."""
        if self._thread is None:
            self._close_all()
        else:
            self._thread.join(seconds)

    def _read(self) -> None:
        try:
            self._read_all()
        except Exception as error:  # noqa: BLE001 - without this thread nobody would hear of the ranks' end
            self._guard.said.append(f"reading from the ranks failed: {type(error).__name__}: {error}")
            self._guard.end()
        self.is_broken = True
        for rank in self._controls:
            self._drain(rank)
        self._close_all()
        self._clean_up()
        self._mailbox.put((None, Lost()))

    def _read_all(self) -> None:
        while True:
            for chosen, _ in self._selector.select(self._tell_unfinished()):
                rank, role = chosen.data
                if role == "launcher":
                    if not self._read_launcher():
                        return
                elif role == "control":
                    if not self._hear(rank):
                        self._on_loss(rank)
                        break  # others were heard too: who was chosen with it may have no more to say
                elif role == "process":
                    self._end_control(rank)
                else:
                    self._read_stream(rank, role)

    def _end_control(self, rank: int) -> None:
        """Its process has ended: after what has come already, its control connection is at its end for this side."""
        handle = self._handles.pop(rank, None)
        if handle is not None:
            self._selector.unregister(handle)
            os.close(handle)
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._controls[rank].fileno())) as same:
            same.shutdown(socket.SHUT_RD)

    def _hear(self, rank: int) -> bool:
        """Take a message of a rank's; False at its end."""
        try:
            message = self._controls[rank].recv()
        except (EOFError, OSError):
            self._selector.unregister(self._controls[rank])
            self._alive.discard(rank)
            return False
        except Exception as error:  # noqa: BLE001 - opening an object may raise anything
            self._mailbox.put((rank, Unreadable(f"{type(error).__name__}: {error}")))
            return True
        if isinstance(message, wire.Told):
            self.survey.hear(rank, message)
            return True
        if isinstance(message, (wire.Finished, wire.Failed)):
            self._drain(rank)  # it flushed before it said so: all it printed is here
            self.pending -= 1
            if self.pending <= 0:
                self._drain_launcher()
        self._mailbox.put((rank, message))
        return True

    def _on_loss(self, rank: int) -> None:
        """Tell that a rank is gone, and who is found to be so by now.

        The launcher ends the others when one has ended: if this thread was late, the first may not be the one it saw.
        """
        self.is_broken = True
        for other in [other for other, handle in self._handles.items() if is_over(handle)]:
            self._end_control(other)
        others = frozenset(other for other in tuple(self._alive) if self._is_at_end(other))
        for gone in (rank, *others):
            self._drain(gone, LATE_SECONDS if gone in self._far else 0.0)
        self._mailbox.put((rank, Lost(others)))

    def _is_at_end(self, rank: int) -> bool:
        for _ in range(LAST_MESSAGES):
            if not self._controls[rank].poll():
                return False
            if not self._hear(rank):
                return True
        return False

    def _drain(self, rank: int, patience: float = 0.0) -> None:
        """Deliver what a rank has printed; of one that is gone, wait so long for the end of what is on its way."""
        deadline = time.monotonic() + patience
        for role in STREAMS:
            while self._read_stream(rank, role) or self._comes_late(self._streams[rank, role].socket, deadline):
                pass
            stream = self._streams[rank, role]
            self._feed(rank, role, b"", last=True)
            if stream.due < deadline:  # what it had begun is gone
                self._mailbox.put((rank, Printing(role, stream.unfinished())))

    def _drain_launcher(self) -> None:
        """Deliver what those have printed whom MPI has started for a program that has ended, waiting for their end."""
        deadline, patience, have_ended = time.monotonic() + SPAWNED_SECONDS, 0.0, False
        while self._spawned and (running := self._spawned.running()):
            patience, have_ended = QUIET_SECONDS, time.monotonic() < deadline
            if not have_ended:
                self._spawned.disregard(running)
            elif wait([self._guard.fileno()], QUIET_SECONDS) and not self._read_launcher():
                return  # all ends: that is heard where this is called from
        while wait([self._guard.fileno()], patience) and self._read_launcher():
            if time.monotonic() > deadline + QUIET_SECONDS:
                return  # somebody who goes on prints without a pause
        if have_ended:
            self._deliver(None, STREAMS[0], self._sieve.feed(self._guard.rest()))

    def _read_launcher(self) -> bool:
        """Read once what comes out of the launcher; False when it has ended."""
        said = self._guard.read()
        self._deliver(None, STREAMS[0], self._sieve.feed(said or ""))
        return said is not None

    def _comes_late(self, stream: socket.socket, deadline: float) -> bool:
        left = deadline - time.monotonic()
        return left > 0 and stream in self._selector.get_map() and bool(wait([stream], left))

    def _read_stream(self, rank: int, role: str) -> bool:
        """Read once what a rank has printed; False when there is nothing (more)."""
        stream = self._streams[rank, role]
        try:
            data = stream.socket.recv(CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # its host is gone
            data = b""
        if not data:
            if stream.socket in self._selector.get_map():
                self._selector.unregister(stream.socket)
            return False
        self._feed(rank, role, data)
        return True

    def _feed(self, rank: int, role: str, data: bytes, *, last: bool = False) -> None:
        stream = self._streams[rank, role]
        self._deliver(rank, role, stream.feed(data, last=last))
        if stream.due < math.inf:
            self._due.add((rank, role))

    def _deliver(self, rank: int | None, role: str, text: str) -> None:
        if text:
            self._mailbox.put((rank, Printed(role, text)))

    def _tell_unfinished(self) -> float | None:
        """Tell how unfinished lines look, of those where it is time; the seconds until it is time again, if ever."""
        now, soonest = time.monotonic(), math.inf
        for rank, role in tuple(self._due):
            stream = self._streams[rank, role]
            if stream.due <= now:
                self._mailbox.put((rank, Printing(role, stream.unfinished())))
            if stream.due == math.inf:
                self._due.discard((rank, role))
            soonest = min(soonest, stream.due)
        return None if soonest == math.inf else max(0.0, soonest - now)

    def _close_all(self) -> None:
        self._selector.close()
        if self._spawned is not None:
            self._spawned.close()
        for handle in self._handles.values():
            os.close(handle)
        for connection in self._controls.values():
            connection.close()
        for stream in self._streams.values():
            stream.socket.close()
        self._guard.close()
