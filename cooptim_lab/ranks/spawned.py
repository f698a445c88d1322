"""Which processes run under a launcher that are none of its ranks: those that MPI starts for a rank (MPI_Comm_spawn).

Read where Linux has it, else there are none that anybody knows of.
"""

from __future__ import annotations

from pathlib import Path

DEPTH = 3
"""A guard, its launcher, what the launcher has on each machine, and what that has started."""


class Spawned:
    """Of one launch, from the moment on when all its ranks are there."""

    def __init__(self, guard: int) -> None:
        self._guard = guard
        self._known = self._below()

    def running(self) -> set[int]:
        """Those that go on."""
        return {pid for pid in self._below() - self._known if is_running(pid)}

    def disregard(self, pids: set[int]) -> None:
        """They may go on for long."""
        self._known |= pids

    def _below(self) -> set[int]:
        layer, found = {self._guard}, set[int]()
        for _ in range(DEPTH):
            layer = {child for pid in layer for child in children(pid)}
            found |= layer
        return found


def children(pid: int) -> list[int]:
    """Of a process that has one thread."""
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:  # it has ended, or the system has no such file
        return []


def is_running(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
