"""What a measurement says: T_p, T_c, P = T_c/T_p, speedup, efficiency, spread, and the doubts that travel with them.

Pure arithmetic on seconds that were measured elsewhere.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..runs.result import Result

FEW_REPEATS = 5
"""Below this, the range of the rounds says little (see `confidence`)."""
WIDE_SPREAD = 0.25
"""A range wider than this part of the speedup is called noisy."""
SAME_ACCURACY = 0.02
"""Accuracies (0..1) further apart than this are not called the same result."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way at one number of workers, measured beside the baseline: a row of `compare`, a point of `speedup`."""

    way: str
    title: str
    workers: int
    seconds: float
    """Median T_c."""
    baseline_seconds: float
    """Median T_p."""
    repeats: int
    low: float
    """The smallest speedup of any round."""
    high: float
    """The largest."""
    loss: float
    metric: float
    metric_name: str
    parameters: int
    warnings: tuple[str, ...] = ()
    spread: float | None = None
    """Standard deviation of the metric over seeds; None where every round had the same seed: then the metric is a
    median, else a mean."""

    @property
    def ratio(self) -> float:
        """P = T_c / T_p: below 1 is better."""
        return self.seconds / self.baseline_seconds

    @property
    def speedup(self) -> float:
        """S = T_p / T_c = 1/P: above 1 is better."""
        return self.baseline_seconds / self.seconds

    @property
    def efficiency(self) -> float:
        """S / workers: 1 is perfect use of every worker."""
        return self.speedup / self.workers

    @property
    def serial_fraction(self) -> float | None:
        """By Karp and Flatt, of the measured speedup; None on one worker."""
        return karp_flatt(self.speedup, self.workers) if self.workers > 1 else None

    def summary(self) -> dict[str, Any]:
        """The row with P, speedup and efficiency, as a JSON object."""
        return {**asdict(self), "ratio": self.ratio, "speedup": self.speedup, "efficiency": self.efficiency}

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any]) -> Row:
        """The row that `summary` wrote."""
        fields = {name: summary[name] for name in cls.__dataclass_fields__ if name in summary}
        return cls(**{**fields, "warnings": tuple(fields["warnings"])})


def measure(title: str, results: Sequence[Result], baseline: Sequence[Result], *, cpus: int) -> Row:
    """One row from the results of n rounds, each beside the baseline's result of the same round.

    The speedup is the ratio of the medians. Its range is that of the rounds' own ratios: what slows the machine for a
    while slows both sides of a round. The ratio of the medians always lies in that range.

    Parameters
    ----------
    cpus
        How many CPUs the process may use, for the doubt about too many workers.

    Raises
    ------
    ValueError
        When the two sides have not the same number of rounds, or none.
    """
    if len(results) != len(baseline) or not results:
        raise ValueError(
            f"{len(results)} results beside {len(baseline)} of the baseline: give as many of both, at least 1"
        )
    ratios = [before.seconds / after.seconds for before, after in zip(baseline, results, strict=True)]
    last = results[-1]
    metric, spread = _centre([result.metric for result in results], [result.options["seed"] for result in results])
    row = Row(
        way=last.way,
        title=title,
        workers=last.workers,
        seconds=statistics.median(result.seconds for result in results),
        baseline_seconds=statistics.median(result.seconds for result in baseline),
        repeats=len(results),
        low=min(ratios),
        high=max(ratios),
        loss=statistics.median(result.loss for result in results),
        metric=metric,
        spread=spread,
        metric_name=last.metric_name,
        parameters=last.parameters,
    )
    reference, _ = _centre([result.metric for result in baseline], [result.options["seed"] for result in baseline])
    return Row(**{**row.__dict__, "warnings": tuple(_doubts(row, reference, cpus))})


def _centre(metrics: Sequence[float], seeds: Sequence[int]) -> tuple[float, float | None]:
    """Mean and standard deviation over seeds, or the median where there is one seed only."""
    if len(set(seeds)) == 1:
        return statistics.median(metrics), None
    return statistics.mean(metrics), statistics.stdev(metrics)


def verdict(row: Row, other: Row) -> str:
    """Which of two rows over seeds scores better, or that their spreads do not let it be said.

    The difference counts when it is more than its standard error twice, √(s₁²/n + s₂²/n) of n seeds each.
    """
    error = ((row.spread or 0) ** 2 + (other.spread or 0) ** 2) ** 0.5 / row.repeats**0.5
    difference = row.metric - other.metric
    if abs(difference) <= 2 * error:
        return f"'{row.title}' and '{other.title}' score alike: they differ by less than {row.repeats} seeds spread"
    # An accuracy is better when it is higher, a loss when it is lower; of a metric of the user's own, who knows.
    if row.metric_name not in ("accuracy", "loss"):
        which = "higher" if difference > 0 else "lower"
        return f"'{row.title}' has the {which} {row.metric_name} of it and '{other.title}'"
    is_better = (difference > 0) == (row.metric_name == "accuracy")
    better, worse = (row, other) if is_better else (other, row)
    return f"'{better.title}' scores better here than '{worse.title}'"


def _doubts(row: Row, reference: float, cpus: int) -> list[str]:
    doubts = []
    if row.way == "sharded" and row.speedup > max(row.workers, 1) * (1 + WIDE_SPREAD):
        doubts.append(f"more than {row.workers} workers can gain: the baseline was slowed by something else")
    if row.workers > cpus:
        doubts.append(f"{row.workers} workers on {cpus} CPUs take turns")
    if row.repeats > 1 and row.high - row.low > WIDE_SPREAD * row.speedup:
        doubts.append(f"noisy: the rounds range from {row.low:.2f}× to {row.high:.2f}×")
    if row.metric_name == "accuracy" and abs(row.metric - reference) > SAME_ACCURACY:
        doubts.append(f"not the same result: accuracy {100 * row.metric:.1f} %, as it is {100 * reference:.1f} %")
    return doubts


def karp_flatt(speedup: float, workers: int) -> float:
    """The experimentally determined serial fraction e = (1/S − 1/p) / (1 − 1/p): 0 is perfect use of p workers.

    Where Amdahl's law holds it is the same for every p; where it grows with p, something else grows too: communication,
    waiting. Karp & Flatt, "Measuring parallel processor performance", CACM 33(5), 1990.
    """
    return (1 / speedup - 1 / workers) / (1 - 1 / workers)


def confidence(repeats: int) -> float:
    """The probability that the range of so many repeats holds the true median: 1 − 2^(1−n).

    Order statistics; e.g. David & Nagaraja, Order Statistics, 3rd ed., section 7.1.
    """
    return 0.0 if repeats < 1 else 1 - 2.0 ** (1 - repeats)
