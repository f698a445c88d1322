"""Whether there is room for ranks: in this machine's shared memory, without which MPI ends and says nothing (SIGBUS),
and among the files that this process may have open.

Measured with MPICH 5.0.2, 1 to 16 ranks: 1.01 MiB a rank in one file. UCX takes 4.1 more where there is room, and does
without where there is none: in 8 MiB 7 ranks start, and compute.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from pathlib import Path

from ..errors import PoolError

SHARED = Path("/dev/shm")
RANK_BYTES = 17 << 16
"""What a rank needs, 1.06 MiB: a little more than was measured."""
LEAVING_SECONDS, LOOK_SECONDS = 2.0, 0.02
"""Ranks that were ended a moment ago still leave: how long what they hold is waited for, and how often looked at."""
DESCRIPTORS = 4
"""Of this process for a rank: three connections, and a handle on one of this machine's."""
GREETED = 512
"""Of those who are just being greeted, at the most; without these a start is only slower."""


def make_room_for_connections(workers: int) -> None:
    """Let this process have as many files open as so many ranks need; the usual limit, 1024, is that of 240 ranks.

    Raises
    ------
    PoolError
        When the system does not allow that.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = len(os.listdir("/dev/fd"))  # noqa: PTH208 - not paths are wanted, but how many
    need = held + DESCRIPTORS * workers
    most = need + GREETED if hard == resource.RLIM_INFINITY else hard
    if need > most:
        raise PoolError(
            f"{workers} ranks need {need} open files in this process, the system allows {most}: there is room for "
            f"{max(0, most - held) // DESCRIPTORS}; ask for fewer, or raise the limit (ulimit -Hn)"
        )
    if soft < need + GREETED and soft != resource.RLIM_INFINITY:
        with contextlib.suppress(ValueError, OSError):  # a system with a limit of its own says so when it is reached
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(need + GREETED, most), hard))


def check_shared_memory(workers: int) -> None:
    """Refuse more ranks than /dev/shm has room for.

    Raises
    ------
    PoolError
    """
    known, until = _sizes(), time.monotonic() + LEAVING_SECONDS
    while known is not None and known[1] < min(known[0], workers * RANK_BYTES) and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
        known = _sizes()
    if known is None or known[1] >= workers * RANK_BYTES:
        return
    size, free = known
    more = "" if free == size else f", of which {_megabytes(free)} are free"
    need, fit = _megabytes(workers * RANK_BYTES), free // RANK_BYTES
    raise PoolError(
        f"/dev/shm is full ({_megabytes(size)}{more}): {workers} ranks need {need}, there is room "
        f"for {fit}; ask for fewer, or make it larger (docker run --shm-size=1g)"
    )


def describe_shared_memory() -> str:
    """That it is full, and how large it is."""
    known = _sizes()
    return "/dev/shm is full" if known is None else f"/dev/shm is full ({_megabytes(known[0])})"


def _sizes() -> tuple[int, int] | None:
    """Bytes in all, and free; None where there is no such place, or it has no limit of its own."""
    try:
        found = os.statvfs(SHARED)
    except OSError:
        return None
    return (found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize) if found.f_blocks else None


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.3g} MB"
