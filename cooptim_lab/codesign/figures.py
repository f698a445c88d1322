"""P of n paired trainings: the figure, its interval, and what a training that missed its goal does to them.

Pure arithmetic on seconds that were measured elsewhere.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..studies.intervals import LEVEL, median_interval, ratio_interval


@dataclass(frozen=True)
class Figure:
    """P = T_c/T_p of n pairs."""

    value: float
    """Geometric mean; the median where a training missed, which is infinite where half of them did."""
    low: float | None = None
    """Of the interval; None where so few pairs have none."""
    high: float | None = None
    pairs: int = 0
    misses: int = 0
    """Trainings that never reached the goal: each counts as infinitely slow."""

    @property
    def is_told_apart(self) -> bool | None:
        """Whether the interval leaves out 1; None where there is none."""
        return None if self.low is None or self.high is None else not self.low <= 1 <= self.high

    def summary(self) -> dict[str, Any]:
        """As a JSON object, in which what is infinite is None."""
        finite = {name: _finite(getattr(self, name)) for name in ("value", "low", "high")}
        return {**finite, "pairs": self.pairs, "misses": self.misses}

    @classmethod
    def from_summary(cls, summary: dict[str, Any]) -> Figure:
        """What `summary` wrote."""
        value, low, high = (summary[name] for name in ("value", "low", "high"))
        has_interval = low is not None
        return cls(
            math.inf if value is None else value,
            low,
            math.inf if high is None and has_interval else high,
            summary["pairs"],
            summary["misses"],
        )


def figure(ratios: Sequence[float], level: float = LEVEL) -> Figure | None:
    """Of the ratios of paired trainings, infinite where the first of a pair missed; None of none.

    Where all are finite the interval is that of the geometric mean (`intervals.ratio_interval`), else that of the
    median (`intervals.median_interval`), of which five pairs have none at 95 %.
    """
    if not ratios:
        return None
    misses = sum(math.isinf(ratio) for ratio in ratios)
    if not misses:
        found = ratio_interval(ratios, level)
        value = math.exp(statistics.fmean(map(math.log, ratios)))
    else:
        found = median_interval(ratios, level)
        value = statistics.median_high(ratios)
    low, high = (None, None) if found is None else found[:2]
    return Figure(value, low, high, len(ratios), misses)


def in_words(found: Figure | None) -> str:
    """The figure, without its interval."""
    if found is None:
        return ""
    return "never reached it" if math.isinf(found.value) else f"{found.value:.2f}"


def interval_in_words(found: Figure | None) -> str:
    """Its interval; empty where it has none."""
    if found is None or found.low is None or found.high is None:
        return ""
    ends = ("∞" if math.isinf(end) else f"{end:.2f}" for end in (found.low, found.high))
    return " – ".join(ends)


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else value
