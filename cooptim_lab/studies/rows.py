"""What a measurement says: T_p, T_c, P = T_c/T_p, speedup, interval, efficiency, and the doubts that travel with them.

Pure arithmetic on seconds that were measured elsewhere.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..runs.result import Result, slow_by_threads
from ..scaling.losses import karp_flatt, lost
from . import doubts
from .intervals import noise, ratio_interval, rounds_to_show, student

FEW_REPEATS = 5
"""Below this, the range of the rounds says little (see `intervals.confidence`)."""
LEAST_DIFFERENCE = 0.01
"""A smaller difference nobody is told how to show."""
BEYOND = 1.5
"""Times the workers: a larger speedup of shards cannot be. Not 1, as a rank keeps all weights in one vector, which an
optimizer steps faster than tensor by tensor: one worker was measured 1.2 to 1.4 times as fast as the network as it is,
on a quiet machine."""

BUSY, IMPOSSIBLE, DISAGREE, REFUSED = "busy", "more than workers can give", "the rounds disagree", "refused"
"""Why a row has no P: others had the CPUs, see `quiet`; a figure that cannot be; rounds further apart than
`FAR_APART`; the way does not take this network."""
CODESIGNED = "co-designed"
"""The way of a row that was trained by a plan, whichever way of training that is."""
FAR_APART = 2.0
"""Rounds whose speedups differ by this factor have measured something else than the way."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way at one number of workers, measured beside the baseline: a row of `compare`, a point of `speedup`.

    Where there is no figure, because of `trouble`, P and what follows from it is None: nobody can take it for one.
    """

    way: str
    title: str
    workers: int
    threads: int | None = None
    """Of each worker; None in records of old."""
    seconds: float | None
    """Median T_c of the rounds that count, as what follows; of all where none does; None where none came to its end."""
    baseline_seconds: float | None
    """Median T_p."""
    repeats: int
    """Rounds."""
    disturbed: int = 0
    """Those of them whose seconds do not count."""
    low: float | None
    """The smallest speedup of any round; None where there is only one, and it is no figure."""
    high: float | None
    """The largest."""
    interval: tuple[float, float] | None = None
    """Where the speedup lies, with a probability of 95 %: see `measure`. None of one round, where there is no figure,
    and in records of old."""
    noise: float | None = None
    """Standard deviation of the logarithms of the rounds' speedups; None where there is no interval."""
    loss: float | None
    metric: float | None
    metric_name: str
    parameters: int | None
    warnings: tuple[str, ...] = ()
    spread: float | None = None
    """Standard deviation of the metric over seeds; None where every round had the same seed: then the metric is a
    median, else a mean."""
    lost: tuple[float, float] | None = None
    """Of the workers' time, the parts that went to waiting and to exchanging, medians; None where nobody took them."""
    cpus: int | None = None
    """That the workers could use; None in records of old."""
    trouble: str = ""
    """Why there is no P: one of those above; empty where there is one."""

    @property
    def is_measured(self) -> bool:
        """Whether there is a P."""
        return not self.trouble

    @property
    def is_busy(self) -> bool:
        """Whether it was trained, and its seconds do not say how fast it is."""
        return self.trouble not in ("", REFUSED)

    @property
    def ratio(self) -> float | None:
        """P = T_c / T_p: below 1 is better."""
        if self.trouble or self.seconds is None or self.baseline_seconds is None:
            return None
        return self.seconds / self.baseline_seconds

    @property
    def speedup(self) -> float | None:
        """S = T_p / T_c = 1/P: above 1 is better."""
        if self.trouble or self.seconds is None or self.baseline_seconds is None:
            return None
        return self.baseline_seconds / self.seconds

    @property
    def efficiency(self) -> float | None:
        """S / workers: 1 is perfect use of every worker."""
        return None if self.speedup is None else self.speedup / self.workers

    @property
    def serial_fraction(self) -> float | None:
        """By Karp and Flatt, of the measured speedup; None on one worker, and where it is none: outside of 0 to 1."""
        if self.speedup is None or self.workers < 2:
            return None
        fraction = karp_flatt(self.speedup, self.workers)
        return fraction if 0 <= fraction <= 1 else None

    @property
    def is_told_apart(self) -> bool | None:
        """Whether the interval of the speedup leaves out 1; None where there is no interval."""
        return None if self.interval is None else not self.interval[0] <= 1 <= self.interval[1]

    @property
    def figure(self) -> str:
        """The speedup in words, or why there is none."""
        if self.speedup is not None:
            return f"{self.speedup:.2f}×"
        return REFUSED if self.trouble == REFUSED else f"{self.trouble}: not measured"

    def summary(self) -> dict[str, Any]:
        """The row with P, speedup and efficiency, as a JSON object."""
        derived = ("ratio", "speedup", "efficiency", "is_busy")
        return {**asdict(self), **{name: getattr(self, name) for name in derived}}

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any]) -> Row:
        """The row that `summary` wrote."""
        fields = {name: summary[name] for name in cls.__dataclass_fields__ if name in summary}
        fields["warnings"] = tuple(fields["warnings"])
        pairs = {name: tuple(fields[name]) for name in ("interval", "lost") if fields.get(name) is not None}
        fields.update(pairs)
        return cls(**fields)

    @classmethod
    def refused(cls, way: str, title: str, workers: int, why: str) -> Row:
        """Of a way that does not take this network."""
        return cls(
            way=way, title=title, workers=workers, seconds=None, baseline_seconds=None, repeats=0, low=None, high=None,
            loss=None, metric=None, metric_name="", parameters=None, warnings=(why,), trouble=REFUSED,
        )  # fmt: skip


def measure(
    title: str, results: Sequence[Result], baseline: Sequence[Result], *, cpus: int, disturbed: Sequence[str] = ()
) -> Row:
    """One row from the results of n rounds, each beside the baseline's result of the same round.

    The speedup is the ratio of the medians. Its range is that of the rounds' own ratios: what slows the machine for a
    while slows both sides of a round. The ratio of the medians always lies in that range.

    The interval is that of the geometric mean of these ratios (`intervals.ratio_interval`), made to reach as far as the
    ratio of the medians where that lies outside: it did in 2 % of simulated studies at most, in none of up to 4 rounds.

    Parameters
    ----------
    cpus
        How many CPUs the process may use, for the doubt about too many workers.
    disturbed
        Of each round what disturbed it, or nothing; none was when left out. The scores of a disturbed round count, its
        seconds do not. Where fewer than half of the rounds are left, which are they: there is no figure.

    Raises
    ------
    ValueError
        When the two sides have not the same number of rounds, or none.
    """
    if len(results) != len(baseline) or not results:
        raise ValueError(
            f"{len(results)} results beside {len(baseline)} of the baseline: give as many of both, at least 1"
        )
    pairs = list(zip(baseline, results, strict=True))
    why = [said for said in disturbed if said]
    is_busy = 2 * len(why) > len(pairs)
    counted = [pair for i, pair in enumerate(pairs) if is_busy or not disturbed or not disturbed[i]]
    ratios = [before.seconds / after.seconds for before, after in counted]
    last = results[-1]
    metric, spread = _centre([result.metric for result in results], [result.options["seed"] for result in results])
    row = Row(
        way=CODESIGNED if last.options.get("plan") else last.way,
        title=title,
        workers=last.workers,
        threads=last.threads,
        seconds=statistics.median(after.seconds for _, after in counted),
        baseline_seconds=statistics.median(before.seconds for before, _ in counted),
        repeats=len(results),
        disturbed=len(why),
        low=min(ratios),
        high=max(ratios),
        loss=statistics.median(result.loss for result in results),
        metric=metric,
        spread=spread,
        metric_name=last.metric_name,
        parameters=last.parameters,
        lost=_lost([after for _, after in counted]),
        cpus=cpus,
        trouble=BUSY if is_busy else "",
    )
    row = replace(row, trouble=row.trouble or _trouble(row))
    if row.speedup is not None and (found := ratio_interval(ratios)):
        ends = min(found.low, row.speedup), max(found.high, row.speedup)
        row = replace(row, interval=ends, noise=noise(ratios))
    if row.trouble and len(ratios) == 1:  # the range of one round is the figure that there is not
        row = replace(row, low=None, high=None)
    reference, _ = _centre([result.metric for result in baseline], [result.options["seed"] for result in baseline])
    found_doubts = [
        _why_no_figure(row, why),
        doubts.slow_threads([slow_by_threads(result.tried) for result in results]),
        *doubts.of_seconds([after.seconds for _, after in counted], row.workers, cpus),
        "" if row.speedup is None else doubts.noisy(ratios),
        doubts.another_score(row.metric_name, row.metric, reference),
    ]
    return replace(row, warnings=tuple(filter(None, found_doubts)))


def _lost(results: Sequence[Result]) -> tuple[float, float] | None:
    shares = [lost(result.breakdown) for result in results if result.breakdown]
    waiting, exchanging = (map(statistics.median, zip(*shares, strict=True))) if shares else (0.0, 0.0)
    return (waiting, exchanging) if shares else None


def is_impossible(way: str, workers: int, speedup: float) -> bool:
    """Whether a speedup is more than so many workers can give, who do the same work as one.

    Of sub-networks nobody can say: they do other work, and have fewer parameters.
    """
    return way == "sharded" and speedup > max(workers, 1) * BEYOND


def _trouble(row: Row) -> str:
    """Why a figure is none although nobody was seen to disturb it."""
    if row.speedup is not None and is_impossible(row.way, row.workers, row.speedup):
        return IMPOSSIBLE
    assert row.low is not None
    assert row.high is not None
    return DISAGREE if row.high > FAR_APART * row.low else ""


def _centre(metrics: Sequence[float], seeds: Sequence[int]) -> tuple[float, float | None]:
    """Mean and standard deviation over seeds, or the median where there is one seed only."""
    if len(set(seeds)) == 1:
        return statistics.median(metrics), None
    return statistics.mean(metrics), statistics.stdev(metrics)


def verdict(row: Row, other: Row) -> str:
    """Which of two rows over seeds scores better, or that their spreads do not let it be said.

    The difference counts when its 95 % interval leaves out 0: when it is more than t times its standard error,
    √(s₁²/n + s₂²/n) of n seeds each. Student's t has (n − 1)(s₁² + s₂²)²/(s₁⁴ + s₂⁴) degrees of freedom: Welch,
    Biometrika 34, 1947.
    """
    assert row.metric is not None
    assert other.metric is not None
    first, second = (row.spread or 0) ** 2, (other.spread or 0) ** 2
    error, difference = ((first + second) / row.repeats) ** 0.5, row.metric - other.metric
    degrees = (row.repeats - 1) * (first + second) ** 2 / (first**2 + second**2) if error else 1
    if abs(difference) <= student(degrees) * error:
        return f"'{row.title}' and '{other.title}' score alike: they differ by less than {row.repeats} seeds spread"
    # An accuracy is better when it is higher, a loss when it is lower; of a metric of the user's own, who knows.
    if row.metric_name not in ("accuracy", "loss"):
        which = "higher" if difference > 0 else "lower"
        return f"'{row.title}' has the {which} {row.metric_name} of it and '{other.title}'"
    is_better = (difference > 0) == (row.metric_name == "accuracy")
    better, worse = (row, other) if is_better else (other, row)
    return f"'{better.title}' scores better here than '{worse.title}'"


def no_gain(row: Row) -> str:
    """That the rounds do not tell whether a way is faster or slower, and how many would; nothing where they do."""
    if row.is_told_apart is not False or row.way == "baseline":
        return ""
    assert row.interval is not None
    assert row.noise is not None
    assert row.speedup is not None
    low, high = row.interval
    said = f"'{row.title}': no gain told apart from noise, 1/P lies between {low:.2f} and {high:.2f} (95 %)"
    difference = max(row.speedup - 1, 1 / row.speedup - 1, LEAST_DIFFERENCE)
    needed = rounds_to_show(difference, row.noise)
    if needed <= row.repeats - row.disturbed:  # what is seen is less than the least
        return said
    return f"{said}; at this noise some {needed:,} rounds would show {100 * difference:.2g} %"


def _why_no_figure(row: Row, why: Sequence[str]) -> str:
    if row.trouble == BUSY:
        return f"busy: {why[-1]}"
    if row.trouble == IMPOSSIBLE:
        return f"the rounds say more than {row.workers} workers can gain: the baseline was slowed by something else"
    if row.trouble == DISAGREE:
        return f"the rounds say from {row.low:.2f} to {row.high:.2f}: something else was measured too"
    return ""
