"""How the kernel and its ranks reach each other: one private directory, one key, authenticated sockets.

The transport is `multiprocessing.connection`: framed messages, mutual HMAC challenge, nothing unpickled before it has
been passed. The directory (mode 0700) holds the socket and the key (mode 0600), so neither shows in a process list or
an environment. A rank opens three connections, in roles of their own: `control` carries messages both ways; `stdout`
and `stderr` become the rank's descriptors 1 and 2, so what it prints is whole, in order, and readable after it has
died.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from .parcel import Parcel

ROLES = ("control", "stdout", "stderr")
SOCKET_PATH_LIMIT = (
    100  # bytes that a Unix socket's path may have, a little under what Linux (108) and macOS (104) take
)


@dataclass(frozen=True)
class Hello:
    """What a rank says first, on its control connection."""

    rank: int
    size: int
    host: str
    pid: int
    library: str
    """The MPI library's own version line."""
    segments: tuple[str, ...] = ()
    """Shared-memory files that MPI has opened for this rank."""


# What follows on the control connection. Kernel -> rank:


@dataclass(frozen=True)
class Start:
    """Run a program: `call` holds (function, keyword arguments)."""

    job: int
    epoch: int
    """Grows with every job that failed: what that one left in flight is never met, see `rank.Rank`."""
    workers: int
    threads: int
    call: Parcel


@dataclass(frozen=True)
class Stop:
    """End job `job` early: by the flag that programs look at, or (hard) by KeyboardInterrupt."""

    job: int
    hard: bool = False


@dataclass(frozen=True)
class Leave:
    """Finalize MPI and exit."""


# Rank -> kernel:


@dataclass(frozen=True)
class Happened:
    """An event of a job: a `runs.events.Event`."""

    job: int
    event: Any


@dataclass(frozen=True)
class Finished:
    """The job's program returned on this rank; `value` is cloudpickle's bytes."""

    job: int
    value: bytes


@dataclass(frozen=True)
class Failed:
    """The job's program raised on this rank. `kind` is input (the user's mistake), interrupt, or error."""

    job: int
    kind: str
    message: str
    traceback: str


def make_directory() -> Path:
    """A private directory with a fresh key, short enough a path for a socket in it."""
    directory = Path(tempfile.mkdtemp(prefix="cooptim-"))
    if len(os.fsencode(socket_path(directory))) > SOCKET_PATH_LIMIT:
        directory.rmdir()
        directory = Path(tempfile.mkdtemp(prefix="cooptim-", dir="/tmp"))
    key = directory / "key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(32))
    return directory


def socket_path(directory: Path) -> Path:
    """Where the kernel listens."""
    return directory / "socket"


def read_key(directory: Path) -> bytes:
    """The key of both sides."""
    return (directory / "key").read_bytes()


def connect(directory: Path, role: str, rank: int) -> Connection:
    """A rank's side: an authenticated connection that has said what it is for."""
    connection = Client(str(socket_path(directory)), family="AF_UNIX", authkey=read_key(directory))
    connection.send((role, rank))
    return connection
