"""How far a run is, and how long it will still take. It is told of progress, and must not know of which run."""

from __future__ import annotations

import math

from cooptim_lab.runs.events import Progress

from .words import duration

LEAST_DONE, LEAST_PASSED = 0.02, 1.0
"""Of the whole, and seconds, after which it is foreseen how long the rest takes."""


class Pace:
    """Of all ranks together: that which is furthest behind counts."""

    def __init__(self) -> None:
        self._done: dict[int | None, tuple[int, int]] = {}
        self._first: tuple[float, float] | None = None  # when it was told first how far it is, and how far that was

    def take(self, event: Progress) -> None:
        """One rank has come so far."""
        self._done[event.rank] = (event.done, event.total)
        if self._first is None:
            self._first = event.time, self.fraction or 0.0

    @property
    def fraction(self) -> float | None:
        """The part that is done; None while unknown."""
        parts = [done / total for done, total in self._done.values() if total]
        return min(parts) if parts else None

    def left(self, now: float) -> str:
        """How long it will still take, if it goes on as it did so far; empty where that says little."""
        done = self.fraction
        if self._first is None or done is None:
            return ""
        since, before = self._first
        passed = now - since
        if passed < LEAST_PASSED or done - before < LEAST_DONE:
            return ""
        seconds = math.ceil(passed * (1 - done) / (done - before))
        return f", about {duration(seconds) if seconds >= 10 else f'{seconds} s'} left" if seconds > 0 else ""
