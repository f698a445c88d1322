"""What a rank has printed leaves it before the rank says that its program has ended.

Knows descriptors and sockets; neither messages nor programs.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import socket
import sys
import termios
import time
from collections.abc import Sequence

_fflush = ctypes.CDLL(None).fflush
SEE_OFF_SECONDS = 30.0
"""So long may another host take to acknowledge it."""


def flush_output() -> None:
    """Bring what Python and C have buffered to the descriptors, before the kernel is told that a program ended."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the program closed it
            stream.flush()
    _fflush(None)


def see_off(printed: Sequence[socket.socket]) -> None:
    """Wait until the kernel's host has all that was printed: on a network, messages of `control` may overtake it."""
    deadline = time.monotonic() + SEE_OFF_SECONDS
    while any(unsent(connection) for connection in printed) and time.monotonic() < deadline:
        time.sleep(0.001)


def unsent(connection: socket.socket) -> int:
    """Bytes that the other host has not acknowledged; 0 of a connection that is gone, or where none can tell."""
    try:
        return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0
