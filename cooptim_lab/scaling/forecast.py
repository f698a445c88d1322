"""What a series says of other numbers of workers: the law that has foretold its last point best, and how sure that is.

A law is chosen without looking at what it is to foretell: each is fitted to all points but the last, and the one whose
word for the last was nearest is fitted to all. Its interval is as wide as it was wrong then, as it is off the points,
and as other laws that were about as good say something else; by how much of each was found on published tables
(`python -m tests.benchmarks laws`), on which such intervals of 90 % hold in 85 to 95 of 100.

No law sees a collapse coming: which mechanism sets in next is in no curve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .laws import LAWS, Fit, Series, fit

FEWEST = 4
"""Numbers of workers; with fewer no law can be told from another."""
WIDEST = 0.5
"""An interval that is wider, as a part of the value, says nothing."""
FLOOR, SHARE, WIDTH = 0.03, 0.5, 2.0
"""Half an interval of 90 %, as a logarithm: WIDTH · (FLOOR + SHARE · (error at the last point + residual + spread))."""
AS_GOOD, AS_NEAR = 3.0, 0.02
"""A law is about as good as the best: its error at the last point so many times that, or so much more."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """What is foretold of one number of workers."""

    count: int
    rate: float
    """Work per second, in the unit of the series."""
    low: float
    high: float
    """90 % of such intervals hold what is measured."""

    @property
    def tells(self) -> bool:
        """Whether the interval is narrow enough to say anything."""
        return self.high - self.low <= WIDEST * self.rate


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A series, laws, and what they foretell.

    Attributes
    ----------
    best
        The law that was nearest at the last point.
    fan
        All that were about as good, the best first.
    missed
        By how much the best was off at the last point, as a logarithm, before it was fitted to that too.
    """

    series: Series
    best: Fit
    fan: tuple[Fit, ...]
    missed: float

    def at(self, counts: Sequence[int]) -> list[Point]:
        """What is foretold of some numbers of workers."""
        values = np.stack([one.rate(counts) for one in self.fan])
        spread = np.log(values).std(0)
        half = WIDTH * (FLOOR + SHARE * (self.missed + self.best.residual + spread))
        return [
            Point(count=int(n), rate=float(rate), low=float(rate * math.exp(-h)), high=float(rate * math.exp(h)))
            for n, rate, h in zip(counts, values[0], half, strict=True)
        ]

    def next_to_measure(self, counts: Sequence[int]) -> int | None:
        """Of some counts, the one at which laws that are about as good differ most for its cost; None if they do not.

        A run on N workers costs N of them: what is gained is how far apart the laws' words are there.
        """
        fresh = [n for n in counts if n not in self.series.counts]
        if not fresh or len(self.fan) < 2:
            return None
        apart = np.log(np.stack([one.rate(fresh) for one in self.fan]))
        gained = (apart.max(0) - apart.min(0)) / np.asarray(fresh, float)
        place = int(gained.argmax())
        return fresh[place] if gained[place] > 0 else None


def forecast(series: Series) -> Forecast:
    """Choose a law for a series, without the counts at which workers take turns.

    Raises
    ------
    InputError
        With fewer than four numbers of workers: the data cannot tell.
    """
    known = series.usable
    if len(known.counts) < FEWEST:
        given = ", ".join(map(str, known.counts)) or "none"
        below = f" up to the {series.cores} cores" if known is not series else ""
        raise InputError(f"numbers of workers{below}: {given}; the data cannot tell a law with fewer than {FEWEST}")
    missed = {name: _missed(name, known) for name in LAWS}
    able = {name: (error, made) for name, error in missed.items() if (made := fit(LAWS[name], known)) is not None}
    best = min(able, key=lambda name: (able[name][0], len(able[name][1].weights)))
    least = able[best][0]
    fan = [name for name in able if able[name][0] <= max(AS_GOOD * least, least + AS_NEAR) and name != best]
    return Forecast(series=known, best=able[best][1], fan=tuple(able[name][1] for name in (best, *fan)), missed=least)


def _missed(name: str, series: Series) -> float:
    """By how much a law, fitted to all points but the last, is off there; infinite where it cannot be."""
    made = fit(LAWS[name], series.first(len(series.counts) - 1))
    if made is None:
        return math.inf
    return abs(math.log(float(made.rate(series.counts[-1:])[0]) / series.rates[-1]))
