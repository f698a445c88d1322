"""Which processes run under a launcher that are none of its ranks: those that MPI starts for a rank (MPI_Comm_spawn).

Read where Linux has it, else there are none that anybody knows of.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

DEPTH = 3
"""A guard, its launcher, what the launcher has on each machine, and what that has started."""
CHUNK = 1 << 16  # bytes: more than the numbers of all ranks of a machine


class Spawned:
    """Of one launch, from the moment on when all its ranks are there."""

    def __init__(self, guard: int) -> None:
        self._guard, layers = guard, list(_layers(guard))
        self._known = set[int]().union(*layers)
        self._files: list[BinaryIO] = []
        for pid in {guard}.union(*layers[:-1]):
            with contextlib.suppress(OSError):  # as in `children`
                self._files.append(_children(pid).open("rb", buffering=0))
        self._seen = self._read()

    def close(self) -> None:
        """It is asked no more."""
        for file in self._files:
            file.close()

    def running(self) -> set[int]:
        """Those that go on."""
        if self._seen is not None and self._read() == self._seen:
            return set()
        below = set[int]().union(*_layers(self._guard))
        return {pid for pid in below - self._known if is_running(pid)}

    def disregard(self, pids: set[int]) -> None:
        """They may go on for long."""
        self._known |= pids

    def _read(self) -> list[bytes] | None:
        try:
            return [os.pread(file.fileno(), CHUNK, 0) for file in self._files] or None
        except OSError:  # one of them has ended
            return None


def _layers(guard: int) -> Iterator[set[int]]:
    layer = {guard}
    for _ in range(DEPTH):
        layer = {child for pid in layer for child in children(pid)}
        yield layer


def _children(pid: int) -> Path:
    return Path(f"/proc/{pid}/task/{pid}/children")


def children(pid: int) -> list[int]:
    """Of a process that has one thread."""
    try:
        return list(map(int, _children(pid).read_text().split()))
    except OSError:  # it has ended, or the system has no such file
        return []


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
