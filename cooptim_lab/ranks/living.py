"""Whether a process of this machine lives, by a handle that stands for that very process (pidfd, Linux 5.3 on).

Its connections do not tell where it has forked: a child holds copies of them.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys

CREDENTIALS = struct.Struct("3i")  # of SO_PEERCRED: process, user, group


def handle_of(pid: int) -> int | None:
    """A descriptor that is readable once the process has ended; None where the system has none.

    Raises
    ------
    ProcessLookupError
        When it has ended already, and its parent has seen that.
    """
    try:
        return os.pidfd_open(pid) if sys.platform == "linux" else None
    except ProcessLookupError:
        raise
    except OSError:
        return None


def handle_of_peer(connection: int) -> int | None:
    """The same for the process that has opened the other end of a Unix socket; None for every other connection.

    Raises
    ------
    ProcessLookupError
        As above.
    """
    if sys.platform != "linux":
        return None
    with socket.socket(fileno=os.dup(connection)) as same:
        if same.family != socket.AF_UNIX:
            return None
        pid, _, _ = CREDENTIALS.unpack(same.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    return handle_of(pid) if pid else None  # 0: it is in a world of processes that cannot be seen from here


def is_over(handle: int) -> bool:
    """Whether the process of a handle has ended."""
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    return bool(poller.poll(0))
