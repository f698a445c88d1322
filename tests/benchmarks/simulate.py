"""The simulator scored on published tables: the larger half of each series foretold from its smaller half.

Two rows at least are given where there are three, one where there are two. Beside it Amdahl's law, fitted to the same
rows. Series whose workers are users that think are left to the laws, and so are tables in which no number of workers
changes alone (T17).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cooptim_lab.errors import InputError
from cooptim_lab.scaling.forecast import forecast
from cooptim_lab.scaling.laws import LAWS, Series, fit
from cooptim_lab.scaling.published import FABRIC, SERVERS, Published, published
from cooptim_lab.scaling.systems import SERVER, Simulator
from tests.benchmarks.rows import Row

REACH = {FABRIC: (0.05, 0.15), SERVERS: (0.15, 0.15)}
"""Of the median error and of its 90th percentile, by family."""
COLLAPSES = 1.5
"""A doubling that gains less is a collapse."""


@dataclass(frozen=True)
class Score:
    """One point: what it was, and what was said of it."""

    series: Published
    count: int
    error: float
    """Relative, with its sign."""
    holds: bool
    """Whether the interval did."""
    peer: float
    """Amdahl's error."""


def given(series: Series) -> int:
    """How many rows calibrate."""
    rows = len(series.counts)
    return 1 if rows == 2 else max(2, rows // 2)


def calibrated(each: Published, rows: int) -> Simulator:
    """By so many first rows."""
    whole = each.series
    servers = zip(whole.counts, whole.servers, strict=True) if each.system.way == SERVER else ()
    return Simulator(each.system, whole.first(rows), tuple(servers))


def scores(tables: Sequence[Published]) -> Iterator[Score]:
    """Of every point that was not given."""
    for each in tables:
        if not each.family:
            continue
        whole, rows = each.series, given(each.series)
        amdahl = fit(LAWS["Amdahl"], whole.first(rows)) or fit(LAWS["ideal"], whole.first(rows))
        assert amdahl is not None
        for told, rate in zip(calibrated(each, rows).at(whole.counts[rows:]), whole.rates[rows:], strict=True):
            peer = float(amdahl.rate([told.count])[0]) / rate - 1
            yield Score(each, told.count, told.rate / rate - 1, told.low <= rate <= told.high, peer)


def collapses(tables: Sequence[Published]) -> Iterator[tuple[str, bool]]:
    """Of every doubling that gained little or lost: whether the sign of it was foretold from the rows before."""
    for each in tables:
        whole = each.series
        for place, count in enumerate(whole.counts[:-1]):
            if 2 * count not in whole.counts:
                continue
            gain = whole.rates[whole.counts.index(2 * count)] / whole.rates[place]
            said = _gain(each, place + 1, count)
            if gain < COLLAPSES and said is not None:
                yield f"{each.table} {each.name} {count} to {2 * count}", (said > 1) == (gain > 1)


def _gain(each: Published, rows: int, count: int) -> float | None:
    if each.family:
        now, then = calibrated(each, rows).at([count, 2 * count])
        return then.rate / now.rate
    try:
        now, then = forecast(each.series.first(rows)).at([count, 2 * count])  # type: ignore[assignment]
    except InputError:  # too few rows for a law
        return None
    return then.rate / now.rate


def rows(path: Path | None = None) -> list[Row]:
    """All rows of README's section on the simulator; of tables in a file, where one is given."""
    tables = published(path) if path else published()
    found = [score for score in scores(tables) if path or score.series.role == "form"]
    made = [row for family in REACH for row in of_family(family, [s for s in found if s.series.family == family])]
    covered = float(np.mean([score.holds for score in found]))
    signs = dict(collapses(tables))
    right = sum(signs.values())
    missed = "; ".join(name for name, is_right in signs.items() if not is_right) or "none"
    return [
        *made,
        Row(
            name="90 % intervals: how many hold the point", ours=100 * covered, other=90.0, unit="%",
            ratio=covered / 0.9, reach="85 to 95 %", holds=0.85 <= covered <= 0.95,
            note=f"of {len(found)} points; other: what is promised",
        ),
        Row(
            name="collapses: the sign of the next doubling", ours=right, other=len(signs), unit="right",
            ratio=right / len(signs), reach=">= 0.9", holds=right >= 0.9 * len(signs),
            note=f"doublings that gain less than {COLLAPSES}; other: all; missed: {missed}",
        ),
    ]  # fmt: skip


def of_family(family: str, found: Sequence[Score]) -> Iterator[Row]:
    """Median and 90th percentile of its errors."""
    worst = sorted(found, key=lambda score: -abs(score.error))[:3]
    told = "; ".join(f"{s.series.table} {s.series.name} on {s.count}: {s.error:+.0%}" for s in worst)
    by_us, by_peer = [score.error for score in found], [score.peer for score in found]
    for (name, share), reach in zip((("median", 0.5), ("90th percentile", 0.9)), REACH[family], strict=True):
        ours, other = (quantile([abs(e) for e in errors], share) for errors in (by_us, by_peer))
        yield Row(
            name=f"{family}: {name} of the error", ours=100 * ours, other=100 * other, unit="%", ratio=ours / other,
            reach=f"<= {reach:.0%}", holds=ours <= reach,
            note=f"other: Amdahl; {len(found)} points; the worst: {told}",
        )  # fmt: skip


def quantile(errors: Sequence[float], share: float) -> float:
    return float(np.quantile(errors, share)) if errors else math.nan
