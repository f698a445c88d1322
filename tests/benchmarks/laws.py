"""Laws scored on published series: the largest counts foretold from the smaller ones, the law chosen without looking.

Of every series the last point is foretold from all others, and, where enough are left, from all but the last two.
Beside ours each law by itself, as it is commonly drawn.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cooptim_lab.scaling.forecast import FEWEST, forecast
from cooptim_lab.scaling.laws import LAWS, Series, fit
from cooptim_lab.scaling.published import Published, published
from tests.benchmarks.rows import Row

MEDIAN, HIGH, COVERED, CANNOT = 0.03, 0.25, (0.85, 0.95), 0.10
PEERS = ("Amdahl", "USL", "ideal")


def held_out(tables: Sequence[Published]) -> Iterator[tuple[Published, Series, int, float]]:
    """A series, its beginning, and the count and rate that are to be foretold."""
    for each in tables:
        whole = each.series
        for left in (1, 2):
            if len(whole.counts) - left >= FEWEST:
                yield each, whole.first(len(whole.counts) - left), whole.counts[-1], whole.rates[-1]


def rows(path: Path | None = None) -> list[Row]:
    """All rows of README's section on laws; of tables in a file, where one is given."""
    tables = published(path) if path else published()
    points = [(each, series, forecast(series).at([count])[0], rate) for each, series, count, rate in held_out(tables)]
    told = [(each, point, rate) for each, _, point, rate in points if point.tells]
    errors = [abs(point.rate / rate - 1) for _, point, rate in told]
    covered = statistics.fmean(point.low <= rate <= point.high for _, _, point, rate in points)
    silent = [
        f"{each.table} {each.name} from {series.counts[-1]}" for each, series, point, _ in points if not point.tells
    ]
    peers = {name: peer_errors(name, tables) for name in PEERS}
    worst, place = max((error, i) for i, error in enumerate(errors))
    of_peers = "; ".join(f"{name} {quantile(e, 0.5):.1%} and {quantile(e, 0.9):.0%}" for name, e in peers.items())
    amdahl, said = peers["Amdahl"], f"{len(told)} points; {of_peers}"
    return [
        row("held-out points of published series: median error", errors, amdahl, 0.5, MEDIAN, said),
        row(
            "held-out points of published series: 90th percentile of the error", errors, amdahl, 0.9, HIGH,
            f"the worst: {told[place][0].table} {told[place][0].name}, {worst:.0%}",
        ),
        Row(
            name="90 % intervals: how many hold the held-out point", ours=100 * covered, other=90.0, unit="%",
            ratio=covered / 0.9, reach="85 to 95 %", holds=COVERED[0] <= covered <= COVERED[1],
            note=f"of {len(points)} points; other: what is promised",
        ),
        Row(
            name="points of which the data cannot tell", ours=100 * len(silent) / len(points), other=100 * CANNOT,
            unit="%", ratio=len(silent) / len(points) / CANNOT, reach=f"<= {CANNOT:.0%}",
            holds=len(silent) <= CANNOT * len(points), note="; ".join(silent) or "none",
        ),
    ]  # fmt: skip


def row(name: str, errors: list[float], peer: list[float], share: float, reach: float, note: str) -> Row:
    ours, other = quantile(errors, share), quantile(peer, share)
    return Row(
        name, 100 * ours, 100 * other, "%", ours / other, f"<= {reach:.0%}", ours <= reach, f"other: Amdahl; {note}"
    )


def peer_errors(name: str, tables: Sequence[Published]) -> list[float]:
    found = [(fit(LAWS[name], series), count, rate) for _, series, count, rate in held_out(tables)]
    return [abs(float(made.rate([count])[0]) / rate - 1) for made, count, rate in found if made is not None]


def quantile(errors: list[float], share: float) -> float:
    return float(np.quantile(errors, share)) if errors else math.nan
