"""What a measurement says: T_p, T_c, P = T_c/T_p, speedup, efficiency, spread, and the doubts that travel with them.

Pure arithmetic on seconds that were measured elsewhere.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .runs.result import Result

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

    def summary(self) -> dict[str, Any]:
        """The row with P, speedup and efficiency, as a JSON object."""
        return {**asdict(self), "ratio": self.ratio, "speedup": self.speedup, "efficiency": self.efficiency}

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any]) -> Row:
        """The row that `summary` wrote."""
        fields = {name: summary[name] for name in cls.__dataclass_fields__}
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
        metric=statistics.median(result.metric for result in results),
        metric_name=last.metric_name,
        parameters=last.parameters,
    )
    reference = statistics.median(result.metric for result in baseline)
    return Row(**{**row.__dict__, "warnings": tuple(_doubts(row, reference, cpus))})


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


def confidence(repeats: int) -> float:
    """The probability that the range of so many repeats holds the true median: 1 − 2^(1−n).

    Order statistics; e.g. David & Nagaraja, Order Statistics, 3rd ed., section 7.1.
    """
    return 0.0 if repeats < 1 else 1 - 2.0 ** (1 - repeats)
