"""How ranks are: asked of all at once, and the table of what is known of each.

Those who do not answer in time are in it without their numbers. What they run is not known here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Container, Mapping
from typing import Any

from .wire import Hello, Told

SURVEY_SECONDS = 0.5
"""A rank that has not told by then how it is sits in a call that keeps Python's lock, or is stopped."""


class Survey:
    """The answers of so many ranks."""

    def __init__(self, ranks: int) -> None:
        self._ranks, self._told = ranks, dict[int, Told]()
        self._is_complete = threading.Event()

    def hear(self, rank: int, told: Told) -> None:
        """An answer has come."""
        self._told[rank] = told
        if len(self._told) == self._ranks:
            self._is_complete.set()

    def wait(self) -> dict[int, Told]:
        """The answers by rank, once all have come or `SURVEY_SECONDS` have passed."""
        self._is_complete.wait(SURVEY_SECONDS)
        return dict(self._told)


def tabulate(
    hellos: Mapping[int, Hello], told: Mapping[int, Told], busy: Container[int], started: float
) -> list[dict[str, Any]]:
    """One row per rank, see `RankPool.status`; `started` is when they were ready, in seconds since the epoch."""
    silent = Told(memory=None, threads=None)
    return [
        {
            "rank": rank,
            "host": hello.host,
            "pid": hello.pid,
            "state": "busy" if rank in busy else "idle",
            "memory": told.get(rank, silent).memory,
            "threads": told.get(rank, silent).threads,
            "seconds": time.time() - started,
            "library": hello.library,
        }
        for rank, hello in sorted(hellos.items())
    ]
