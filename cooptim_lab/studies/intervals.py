"""How sure a number is: intervals of a median and of a ratio of paired timings; how many rounds a difference takes.

Pure functions of numbers; what was timed, and what disturbed it, they must not know.

Of ratios, Student's t of their logarithms: of a thing beside itself, n = 3 to 12 rounds, also with heavy tails, spikes
and a random walk (simulated, 2000 times each), it held 1 in 94 to 99 %, the bootstrap of the mean (percentile, BCa) in
70 to 92 %. Of 200 real studies of a short training beside itself, 5 rounds each, 3 missed 1 and 12 had no figure. No
interval sees what is alike in every round: of 200 timings of a matrix product beside itself, 5 rounds each, 46 missed 1
where the same side was always first, 4 where the sides took turns (of the training it made no difference that shows).
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from typing import NamedTuple

LEVEL = 0.95
"""Of every interval, unless another is asked for."""


class Interval(NamedTuple):
    """From `low` to `high`, and the probability with which such an interval holds the true value."""

    low: float
    high: float
    level: float


def confidence(repeats: int, left_out: int = 0) -> float:
    """The probability that the range of so many repeats, less the `left_out` at each end, holds the true median.

    1 − 2·P(X ≤ left_out) for X binomial of `repeats` and ½; of the whole range that is 1 − 2^(1−n). It holds for any
    distribution without steps. Order statistics; e.g. David & Nagaraja, Order Statistics, 3rd ed., section 7.1.
    """
    if repeats < 1:
        return 0.0
    return max(0.0, 1 - sum(math.comb(repeats, k) for k in range(left_out + 1)) / 2 ** (repeats - 1))


def median_interval(values: Sequence[float], level: float = LEVEL) -> Interval | None:
    """An interval for the median by order statistics, exact for any distribution without steps.

    Parameters
    ----------
    values
        n of them, infinite ones too: a run that never reached its target takes for ever.
    level
        What is asked for, between 0 and 1. The narrowest pair of ranks, as far from either end, that has it is taken.

    Returns
    -------
    Interval or None
        With the level that it has; None where all n have less than is asked for: 5 have 0.9375, 6 have 0.969. From 9 on
        the extremes may be left out, at 0.95.

    Raises
    ------
    ValueError
        For a value that is no number, or a level that is none.
    """
    _check_level(level)
    if any(math.isnan(value) for value in values):
        raise ValueError("a value is NaN: a failed reading is no measurement; leave it out, or give inf for a miss")
    repeats, left_out = len(values), 0
    if confidence(repeats) < level:
        return None
    while confidence(repeats, left_out + 1) >= level:
        left_out += 1
    ordered = sorted(values)
    return Interval(ordered[left_out], ordered[-1 - left_out], confidence(repeats, left_out))


def ratio_interval(ratios: Sequence[float], level: float = LEVEL) -> Interval | None:
    """An interval for the geometric mean of the ratios of n paired timings: exp(m ± t·s/√n), m and s of their logs.

    Student's t with n − 1 degrees of freedom; see the module for why it is not the bootstrap. Exact where logs are
    normal, cautious where they have heavy tails to both sides. Rare spikes of one side only that no round has met are
    not in it: of those it holds the median ratio, not the mean.

    Returns
    -------
    Interval or None
        None where n < 2: how far another round would lie is not known.

    Raises
    ------
    ValueError
        For a ratio that is not a positive number, or a level that is none.
    """
    _check_level(level)
    if bad := [ratio for ratio in ratios if not 0 < ratio < math.inf]:
        raise ValueError(f"{bad[0]} is no ratio of timings: give numbers above 0")
    if len(ratios) < 2:
        return None
    centre = statistics.fmean(map(math.log, ratios))
    half = student(len(ratios) - 1, level) * noise(ratios) / math.sqrt(len(ratios))
    return Interval(math.exp(centre - half), _exp(centre + half), level)


def _exp(logarithm: float) -> float:
    """Infinite where it is too large for a number: of two pairs and a high level nothing is known."""
    return math.exp(logarithm) if logarithm < math.log(sys.float_info.max) else math.inf


def noise(ratios: Sequence[float]) -> float:
    """The standard deviation of the logarithms of n ≥ 2 ratios: 0.03 is about 3 %."""
    return statistics.stdev(map(math.log, ratios))


def rounds_to_show(difference: float, noise: float, level: float = LEVEL) -> int:
    """The rounds whose interval reaches as far as a difference: the fewest n with t·noise/√n ≤ ln(1 + difference).

    With so many, a difference that is there is told apart in about every second study, and with twice as many in four
    of five. 1 % at 3 % noise takes 38.

    Parameters
    ----------
    difference
        Above 0: 0.01 for one percent.
    noise
        Of the rounds' ratios, see `noise`.

    Raises
    ------
    ValueError
        For a difference that is not above 0, a noise below 0, or either not finite; or a level that is none.
    """
    _check_level(level)
    if not 0 < difference < math.inf or not 0 <= noise < math.inf:
        raise ValueError(f"difference = {difference}, noise = {noise}: give one above 0, and 0 or more")

    def enough(n: int) -> bool:
        return student(n - 1, level) * noise / math.sqrt(n) <= math.log1p(difference)

    low, high = 1, 2  # of one round nothing is known
    while not enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def student(degrees: float, level: float = LEVEL) -> float:
    """Student's t lies between ± this with that probability: 12.7 for 1 degree of freedom, 1.96 for many."""
    from scipy.special import stdtrit  # 0.2 s, which the notebook's start should not take

    return float(stdtrit(degrees, 0.5 + level / 2))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: give a probability between 0 and 1, as 0.95")
