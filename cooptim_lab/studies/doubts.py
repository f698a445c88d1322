"""What may be wrong with numbers that were measured: each doubt a function, that gives one line or nothing.

After pyperf (its `check`) and hyperfine (its slow first run). What others took of the CPUs meanwhile, by steal too, and
what a quota held back, `quiet` says.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

SPREAD = 0.1
"""A standard deviation over this part of the mean is called noisy, as pyperf does."""
EXTREME = 0.5
"""A value further off the mean than this part of it, too."""
SHORTEST_SECONDS = 1e-3
"""In less, clocks and wake-ups are a part of what is timed; pyperf's bound."""
SLOW_FIRST = 1.1
"""Times the slowest of the rest. hyperfine looks ten robust deviations far, which so few rounds cannot tell."""
FEW = 3
"""Rounds below which no first one can be told from the rest."""
SAME_ACCURACY = 0.02
"""Accuracies (0..1) further apart than this are not called the same result."""


def of_seconds(seconds: Sequence[float], workers: int, cpus: int) -> Iterator[str]:
    """Every doubt of the seconds that one way took in n rounds, in their order."""
    yield from filter(None, (crowded(workers, cpus), too_short(seconds), slow_first(seconds)))


def crowded(workers: int, cpus: int) -> str:
    """More workers than CPUs."""
    return f"{workers} workers on {cpus} CPUs take turns" if workers > cpus else ""


def too_short(seconds: Sequence[float]) -> str:
    """A timing that is too short to be one."""
    least = min(seconds)
    if least >= SHORTEST_SECONDS:
        return ""
    return f"the shortest round took {1e3 * least:.2g} ms, of which clocks and wake-ups are a part: give more epochs"


def slow_first(seconds: Sequence[float]) -> str:
    """A first round slower than all others."""
    first, *rest = seconds
    if len(seconds) < FEW or first <= SLOW_FIRST * max(rest):
        return ""
    return f"slow first round: {first:.3g} s, the others took {min(rest):.3g} to {max(rest):.3g} s"


def noisy(ratios: Sequence[float]) -> str:
    """Speedups of n rounds that lie far apart.

    Of the ratios, not of the seconds: what slows both sides of a round does not touch P.
    """
    if len(ratios) < 2:
        return ""
    mean = statistics.fmean(ratios)
    furthest = max(ratios, key=lambda ratio: abs(ratio - mean))
    off, spread = abs(furthest / mean - 1), statistics.stdev(ratios) / mean
    if off > EXTREME:
        return f"noisy: one round's {furthest:.2f}× lies {100 * off:.0f} % off the mean of the rounds, {mean:.2f}×"
    return f"noisy: the rounds' speedups spread by {100 * spread:.0f} % of their mean" if spread > SPREAD else ""


def slow_threads(said: Sequence[str]) -> str:
    """That fewer threads would be faster, where most of n rounds have said it (or nothing, each)."""
    return next(text for text in reversed(said) if text) if 2 * sum(map(bool, said)) > len(said) else ""


def another_score(name: str, metric: float | None, reference: float) -> str:
    """Another accuracy than the network as it is has; other metrics have no scale to be compared on."""
    if name != "accuracy" or metric is None or abs(metric - reference) <= SAME_ACCURACY:
        return ""
    return f"not the same result: accuracy {100 * metric:.1f} %, as it is {100 * reference:.1f} %"
