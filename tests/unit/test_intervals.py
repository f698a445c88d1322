"""Intervals against closed forms, against draws whose truth is known, and beside what would miss more."""

from __future__ import annotations

import math
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from scipy import stats

from cooptim_lab.studies.intervals import (
    LEVEL,
    confidence,
    median_interval,
    noise,
    ratio_interval,
    rounds_to_show,
    student,
)

COMPARISONS, MOST_MISSES = 200, 16


class TestConfidence:
    @pytest.mark.parametrize(
        ("repeats", "share"), [(0, 0), (1, 0), (2, 0.5), (3, 0.75), (5, 0.9375), (6, 0.96875), (11, 1 - 2**-10)]
    )
    def test_of_the_whole_range(self, repeats, share):
        assert confidence(repeats) == share

    @pytest.mark.parametrize(
        ("repeats", "left_out", "share"), [(2, 1, 0), (3, 1, 0), (4, 1, 3 / 8), (8, 1, 1 - 9 / 128)]
    )
    def test_of_less_than_that(self, repeats, left_out, share):
        assert confidence(repeats, left_out) == share

    def test_by_the_binomial(self):
        for repeats in range(1, 60):
            for left_out in range(repeats // 2):
                expected = 1 - 2 * stats.binom.cdf(left_out, repeats, 0.5)
                assert confidence(repeats, left_out) == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize(("repeats", "left_out"), [(5, 0), (9, 1), (12, 3)])
    def test_is_how_often_the_range_holds_the_median(self, repeats, left_out):
        """Against the thing itself: 20,000 times so many draws whose true median is 0."""
        draws = np.sort(np.random.default_rng(1).standard_cauchy((20_000, repeats)))
        held = np.mean((draws[:, left_out] <= 0) & (draws[:, -1 - left_out] >= 0))
        assert held == pytest.approx(confidence(repeats, left_out), abs=0.01)


class TestMedian:
    @pytest.mark.parametrize("n", range(6))
    def test_few_values_cannot_give_95_percent(self, n):
        assert median_interval(range(n)) is None

    @pytest.mark.parametrize(
        ("n", "low", "high", "level"),
        [
            (6, 0, 5, 0.96875),
            (8, 0, 7, 1 - 2**-7),
            (9, 1, 7, 1 - 10 / 256),
            (11, 1, 9, 1 - 12 / 1024),
            (12, 2, 9, None),
        ],
    )
    def test_ranks(self, n, low, high, level):
        found = median_interval(list(range(n))[::-1])
        assert (found.low, found.high) == (low, high)
        assert level is None or found.level == level
        assert found.level >= LEVEL

    def test_is_the_narrowest_that_has_the_level(self):
        for n in range(6, 60):
            found = median_interval(range(n))
            assert confidence(n, int(found.low)) == found.level >= LEVEL > confidence(n, int(found.low) + 1)

    def test_another_level(self):
        assert median_interval([3, 1, 2], 0.75) == (1, 3, 0.75)
        assert median_interval([3, 1, 2], 0.76) is None
        assert median_interval([7], 0.01) is None

    def test_a_miss_is_infinite(self):
        assert median_interval([1, 2, 3, 4, 5, math.inf]) == (1, math.inf, 0.96875)
        assert median_interval([*range(8), math.inf]) == (1, 7, 1 - 10 / 256)

    def test_what_is_no_number_is_refused(self):
        with pytest.raises(ValueError, match="a value is NaN"):
            median_interval([1, 2, math.nan])

    @pytest.mark.parametrize("level", [0, 1, 95, -0.5, math.nan])
    def test_a_level_is_a_probability(self, level):
        for of in (median_interval, ratio_interval, lambda values, level: rounds_to_show(0.1, 0.1, level)):
            with pytest.raises(ValueError, match=r"a probability between 0 and 1, as 0\.95"):
                of([1, 2], level)


class TestRatio:
    def test_closed_form_of_two(self):
        """One degree of freedom is Cauchy: t = tan(0.475 π)."""
        low, high, level = ratio_interval([1.0, math.exp(0.2)])
        half = math.tan(0.475 * math.pi) * 0.1
        assert (math.log(low), math.log(high)) == pytest.approx((0.1 - half, 0.1 + half))
        assert level == LEVEL

    def test_as_scipy_has_it(self):
        ratios = np.random.default_rng(0).lognormal(0.3, 0.1, 9)
        found = stats.ttest_1samp(np.log(ratios), 0).confidence_interval(0.9)
        assert np.log(ratio_interval(ratios, 0.9)[:2]) == pytest.approx([found.low, found.high])

    def test_which_side_is_over_which_does_not_matter(self):
        ratios = [1.1, 1.3, 0.9]
        low, high, _ = ratio_interval([1 / ratio for ratio in ratios])
        assert (1 / high, 1 / low) == pytest.approx(ratio_interval(ratios)[:2])

    def test_no_noise_no_width(self):
        assert ratio_interval([2.0] * 5) == pytest.approx((2, 2, LEVEL))

    def test_one_round_says_nothing_of_another(self):
        assert ratio_interval([1.5]) is ratio_interval([]) is None

    @pytest.mark.parametrize("bad", [0, -1, math.inf, math.nan])
    def test_what_is_no_ratio_is_refused(self, bad):
        with pytest.raises(ValueError, match="is no ratio of timings: give numbers above 0"):
            ratio_interval([1, bad])

    @pytest.mark.parametrize(("degrees", "t"), [(1, 12.706), (2, 4.303), (4, 2.776), (1e9, 1.960)])
    def test_student(self, degrees, t):
        assert student(degrees) == pytest.approx(t, abs=1e-3)


# Identity 13: a plan beside itself.

NOISE = 0.03
WORLDS = {
    "lognormal": lambda random, shape: random.normal(0, NOISE, shape),
    "heavy tails": lambda random, shape: NOISE * random.standard_t(3, shape),
    "spikes": lambda random, shape: (
        random.normal(0, NOISE, shape) + (random.random(shape) < 0.1) * random.exponential(0.5, shape)
    ),
    "random walk": lambda random, shape: np.cumsum(random.normal(0, NOISE, shape), axis=1),
}
"""Logarithms of seconds, each of shape (comparisons, trainings one after the other)."""


def beside_itself(world, n, *, takes_turns=True, drift=0.0):
    """Ratios of 200 comparisons of n rounds, whose trainings grow slower by `drift` each; shape (200, n)."""
    random = np.random.default_rng(13)
    first, second = np.moveaxis(
        (WORLDS[world](random, (COMPARISONS, 2 * n)) + drift * np.arange(2 * n)).reshape(COMPARISONS, n, 2), 2, 0
    )
    sign = np.where(np.arange(n) % 2, -1, 1) if takes_turns else 1
    return np.exp(sign * (second - first))


def misses(ratios, interval=ratio_interval):
    """How many of the comparisons have an interval without 1."""
    return sum(not low <= 1 <= high for low, high, *_ in map(interval, ratios))


def too_narrow(ratios, z=1.5):
    """A breakage: a factor that is too small for any number of rounds."""
    half = z * noise(ratios) / math.sqrt(len(ratios))
    centre = np.mean(np.log(ratios))
    return math.exp(centre - half), math.exp(centre + half)


def bootstrap(ratios, method):
    """What is not taken, as it misses too often."""
    logs = (np.log(ratios),)
    found = stats.bootstrap(logs, np.mean, n_resamples=300, method=method, rng=np.random.default_rng(0))
    return tuple(np.exp(found.confidence_interval))


@pytest.mark.parametrize("n", [3, 5, 8, 12])
@pytest.mark.parametrize("world", WORLDS)
def test_200_comparisons_with_itself_miss_1_16_times_at_most(world, n):
    ratios = beside_itself(world, n)
    assert misses(ratios) <= MOST_MISSES
    assert misses(ratios, too_narrow) > misses(ratios)


@pytest.mark.parametrize("n", [3, 5, 8])
def test_a_narrower_interval_would_miss_more_often(n):
    ratios = beside_itself("lognormal", n)
    assert misses(ratios, too_narrow) > MOST_MISSES
    if n < 8:
        assert misses(ratios, partial(too_narrow, z=1.96)) > MOST_MISSES


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_the_bootstrap_would_too(method):
    assert misses(beside_itself("lognormal", 5), partial(bootstrap, method=method)) > MOST_MISSES


@pytest.mark.parametrize("n", [4, 5, 8])
def test_a_drift_is_no_gain_where_the_sides_take_turns(n):
    """5 % a training. Beside it, the same side always first."""
    assert misses(beside_itself("lognormal", n, drift=0.05)) <= MOST_MISSES
    assert misses(beside_itself("lognormal", n, drift=0.05, takes_turns=False)) > MOST_MISSES


def test_a_gain_that_is_there_is_seen():
    assert misses(1.2 * beside_itself("lognormal", 5)) > 0.95 * COMPARISONS


class TestRoundsToShow:
    def test_one_percent_at_three(self):
        assert rounds_to_show(0.01, 0.03) == 38

    @pytest.mark.parametrize(("difference", "spread"), [(0.01, 0.03), (0.05, 0.02), (0.5, 0.03), (0.02, 0.2)])
    def test_are_the_fewest(self, difference, spread):
        found = rounds_to_show(difference, spread)
        reach = lambda n: student(n - 1) * spread / math.sqrt(n)  # noqa: E731
        assert reach(found) <= math.log1p(difference)
        assert found == 2 or reach(found - 1) > math.log1p(difference)

    def test_no_noise_takes_two(self):
        assert rounds_to_show(0.01, 0) == 2

    @pytest.mark.parametrize(("times", "share"), [(1, 0.5), (2, 0.8)])
    def test_is_how_often_they_do(self, times, share):
        n = times * rounds_to_show(0.01, NOISE)
        logs = np.random.default_rng(2).normal(math.log1p(0.01), NOISE, (2_000, n))
        shown = np.mean([ratio_interval(one)[0] > 1 for one in np.exp(logs)])
        assert shown == pytest.approx(share, abs=0.05)

    @pytest.mark.parametrize(
        ("difference", "spread"), [(0, 0.1), (-1, 0.1), (math.nan, 0.1), (0.1, -1), (0.1, math.inf)]
    )
    def test_what_cannot_be_shown_is_refused(self, difference, spread):
        with pytest.raises(ValueError, match="give one above 0, and 0 or more"):
            rounds_to_show(difference, spread)


@pytest.mark.parametrize(("more", "is_loaded"), [("", False), ("; module.student(3)", True)])
def test_the_kernel_loads_scipy_only_when_something_is_measured(more, is_loaded):
    code = f"import cooptim_lab.studies.intervals as module, sys{more}; print('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [str(is_loaded)]


def test_two_ratios_far_apart_at_a_high_level_tell_nothing():
    """Student's t of one degree of freedom is large: its exponential is no number any more."""
    low, high, _ = ratio_interval([0.1, 2.0], 0.9995)
    assert low < 1e-300
    assert high == math.inf
