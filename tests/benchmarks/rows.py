"""What every benchmark writes, and how it measures: ours and the other in the same run, interleaved, medians."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

REPEATS = 5


@dataclass(frozen=True)
class Row:
    """One comparison. `ratio` is ours over other; `reach` says what it must not exceed."""

    name: str
    ours: float
    other: float
    unit: str
    ratio: float
    reach: str
    holds: bool
    note: str


def interleave(ours: Callable[[], float], other: Callable[[], float], repeats: int = REPEATS) -> tuple[float, float]:
    """Medians of both, measured in turns, so that what disturbs the machine disturbs both."""
    pairs = [(ours(), other()) for _ in range(repeats)]
    return statistics.median(first for first, _ in pairs), statistics.median(second for _, second in pairs)
