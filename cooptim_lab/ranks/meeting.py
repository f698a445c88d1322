"""How the kernel and its ranks find and trust each other: one private directory, one key, authenticated sockets.

On one machine they meet at a Unix socket in the kernel's private directory (mode 0700); the key lies beside it (mode
0600). Ranks on other hosts come over TCP to a free port of the one interface that the hosts share, and are told where,
and the key, through mpiexec's standard input: neither shows in a process list or an environment.

The transport is `multiprocessing.connection`: framed messages, mutual HMAC challenge, nothing unpickled before it has
been passed. The messages after it are neither signed nor encrypted, and the launcher brings the key to the hosts as it
brings everything: like MPI's own traffic this belongs on a network that one trusts.

A rank opens three connections, in roles of their own: `control` carries messages both ways; `stdout` and `stderr`
become the rank's descriptors 1 and 2, so what it prints is whole, in order, and readable after it has died.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import socket
import threading
import time
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path

from . import wire

HANDSHAKE_SECONDS = 10.0
"""So long may somebody who knocks take to prove the key."""
CONNECT_SECONDS = 30.0
"""So long may a rank take to reach the kernel over a network."""
WAKE_SECONDS = 0.2
AT_ONCE = 256
"""Handshakes that go on at the same time; who comes after waits."""
KEEPALIVE = (5, 2, 4)
"""Seconds of silence, seconds between probes, probes: a host that vanished is noticed after 13 s..."""
UNANSWERED_SECONDS = 13
"""...and after as many where something that was sent waits for an answer, which no probe looks at."""

Address = str | tuple[str, int]
"""A Unix socket's path, or a host's address and port."""


@dataclass(frozen=True)
class Meeting:
    """Where the kernel listens, and the key that both sides must know."""

    address: Address
    key: bytes

    def dumps(self) -> bytes:
        """One line."""
        return json.dumps({"address": self.address, "key": self.key.hex()}).encode() + b"\n"

    @staticmethod
    def loads(line: bytes) -> Meeting:
        """What `dumps` wrote."""
        told = json.loads(line)
        address = told["address"]
        return Meeting(address if isinstance(address, str) else (address[0], address[1]), bytes.fromhex(told["key"]))

    @staticmethod
    def read(directory: Path) -> Meeting:
        """From the kernel's private directory."""
        return Meeting.loads(meeting_file(directory).read_bytes())

    def connect(self, role: str, rank: int) -> Connection:
        """A rank's side: an authenticated connection that has said what it is for.

        Raises
        ------
        OSError
        AuthenticationError
        """
        if isinstance(self.address, str):
            reached = socket.socket(socket.AF_UNIX)
            reached.connect(self.address)
        else:
            reached = socket.create_connection(self.address, CONNECT_SECONDS)
            reached.settimeout(None)
            tune(reached)
        connection = Connection(reached.detach())
        answer_challenge(connection, self.key)
        deliver_challenge(connection, self.key)
        connection.send((role, rank))
        return connection


def meeting_file(directory: Path) -> Path:
    """Where the meeting is written down, for the ranks of this machine and for mpiexec's standard input."""
    return directory / "meeting"


@dataclass(frozen=True)
class Arrival:
    """Somebody who knew the key, and what for; `hello` on the control connection."""

    role: str
    rank: int
    connection: Connection
    hello: wire.Hello | None


class Door:
    """The kernel's side: listens, lets in who knows the key, and puts them into `arrivals`.

    Parameters
    ----------
    directory
        Private; holds the Unix socket, and is told the meeting.
    interface
        The address to listen at over TCP, at a free port; None: at the Unix socket.
    """

    def __init__(self, directory: Path, interface: str | None = None) -> None:
        self.arrivals: queue.SimpleQueue[Arrival] = queue.SimpleQueue()
        self._key, self._closed = secrets.token_bytes(32), threading.Event()
        self._room = threading.Semaphore(AT_ONCE)
        address: Address
        if interface is None:
            self._listener = socket.socket(socket.AF_UNIX)
            address = str(directory / "socket")
            self._listener.bind(address)
            Path(address).chmod(0o600)
            self._listener.listen(AT_ONCE)
        else:
            family = socket.AF_INET6 if ":" in interface else socket.AF_INET
            self._listener = socket.create_server((interface, 0), family=family, backlog=AT_ONCE)
            address = (interface, self._listener.getsockname()[1])
        file = meeting_file(directory)
        file.touch(mode=0o600)
        file.write_bytes(Meeting(address, self._key).dumps())
        self._listener.settimeout(WAKE_SECONDS)
        threading.Thread(target=self._serve, name="cooptim-door", daemon=True).start()

    def __enter__(self) -> Door:
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed.set()

    def _serve(self) -> None:
        with self._listener:
            while not self._closed.is_set():
                if not self._room.acquire(timeout=WAKE_SECONDS):
                    continue
                try:
                    knocking, _ = self._listener.accept()
                    # Each by a thread of its own: one who says nothing keeps nobody waiting.
                    threading.Thread(target=self._admit, args=(knocking,), name="cooptim-door", daemon=True).start()
                except (OSError, RuntimeError) as error:  # nobody came; or no descriptor or thread is free, yet
                    self._room.release()
                    if not isinstance(error, TimeoutError):
                        time.sleep(WAKE_SECONDS)

    def _admit(self, knocking: socket.socket) -> None:
        knocking.setblocking(True)
        if knocking.family != socket.AF_UNIX:
            tune(knocking)
        connection = Connection(os.dup(knocking.fileno()))
        with knocking:
            late = threading.Timer(HANDSHAKE_SECONDS, _hang_up, [knocking])
            late.daemon = True
            late.start()
            self._hear_out(connection)
            late.cancel()

    def _hear_out(self, connection: Connection) -> None:
        try:
            deliver_challenge(connection, self._key)
            answer_challenge(connection, self._key)
            role, rank = connection.recv()
            hello = connection.recv() if role == "control" else None
        except (AuthenticationError, EOFError, OSError):
            connection.close()  # not one of ours, or one that died; the ranks that are missing tell
            return
        finally:
            self._room.release()
        if self._closed.is_set():
            connection.close()
        else:
            self.arrivals.put(Arrival(role, rank, connection, hello))


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended by itself
        connection.shutdown(socket.SHUT_RDWR)


def tune(connection: socket.socket) -> None:
    """Send small messages at once; notice when the other host is gone without a word."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in zip(("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"), KEEPALIVE, strict=True):
        if hasattr(socket, name):  # macOS has them by other names, or not
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * UNANSWERED_SECONDS)


def source_address(host: str) -> tuple[str, str]:
    """This machine's address on the way to a host, and the host's own. Nothing is sent.

    Raises
    ------
    OSError
        When the name is unknown or there is no way to it.
    """
    family, _, _, _, target = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(target)
        return str(probe.getsockname()[0]), str(target[0])
