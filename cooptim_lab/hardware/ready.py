"""Whether this process's threads ran when they were ready: how long each stood in the scheduler's queue.

A thread that waits there has work and no CPU: others have it. That is told apart here from one that sleeps, as CPU time
over wall time does not. What is to be thought of it is not known here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .cgroups import quota
from .readings import ROOT, text

Waits = Mapping[int, float]
"""Seconds since they began that threads were ready and did not run, by thread id."""


def waits(root: Path = ROOT) -> Waits | None:
    """Of this process's threads; None where the kernel does not count it, or is not Linux.

    The second number of `schedstat` (Documentation/scheduler/sched-stats.rst), in nanoseconds.
    """
    found, ran = {}, 0
    for path in (root / "proc/self/task").glob("[0-9]*/schedstat"):
        words = (text(path) or "").split()  # a thread may have ended meanwhile
        if len(words) == 3 and all(word.isdigit() for word in words):
            found[int(path.parent.name)] = int(words[1]) / 1e9
            ran += int(words[0])
    return found if ran else None  # a kernel that does not count writes zeros


def longest(before: Waits | None, after: Waits | None) -> float | None:
    """For how long, between two readings, the thread waited that waited longest.

    Threads that share a step wait for the last of them: its time is what all have lost.
    """
    if before is None or after is None:
        return None
    return max((waited - before.get(thread, 0.0) for thread, waited in after.items()), default=None)


class Watch:
    """What this process did from now on."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._began, self._cpu, self._waits = time.perf_counter(), time.process_time(), waits(root)

    def told(self) -> dict[str, Any]:
        """So far, in seconds: `elapsed`; `cpu`, of all threads; `waiting`, of the thread that waited longest, or None.

        With `quota`, the CPUs' worth that the cgroup allows, or None: threads that have used it up wait in the queue
        too, and the cgroup's own count of that falls short of it (Linux 6.18). A JSON object.
        """
        return {
            "elapsed": time.perf_counter() - self._began,
            "cpu": time.process_time() - self._cpu,
            "waiting": longest(self._waits, waits(self._root)),
            "quota": quota(self._root),
        }
