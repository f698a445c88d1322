"""What measured speedups say of more workers: the laws that they can carry, in words too."""

from __future__ import annotations

from collections.abc import Collection

from ..scaling.forecast import FEWEST, Forecast, forecast
from ..scaling.laws import STRONG, Series
from .rows import Row


def foretell(rows: Collection[Row]) -> Forecast | None:
    """The laws of one way's rows, which did the same work; None with fewer than four numbers of workers, or more ways.

    Left out are rows without a figure, and those of more workers than CPUs, which take turns.
    """
    changed = [row for row in rows if row.way != "baseline"]
    able = {
        row.workers: row.speedup
        for row in sorted(changed, key=lambda row: row.workers)
        if row.speedup is not None and row.workers <= (row.cpus or row.workers)
    }
    if len(able) < FEWEST or len({row.way for row in changed}) > 1:
        return None
    return forecast(Series(counts=tuple(able), rates=tuple(able.values()), scaling=STRONG))


def beyond(rows: Collection[Row]) -> list[str]:
    """What is foretold of twice as many workers, and what to measure next, as lines; none where nothing can be."""
    found = foretell(rows)
    if found is None:
        return []
    most = found.series.counts[-1]
    (point,) = found.at([2 * most])
    law = f"by the law '{found.best.law.name}': {found.best.law.says}"
    said = f"{point.count} workers: {point.rate:.2f}× ({point.low:.2f} to {point.high:.2f}, 90 %), {law}."
    if not point.tells:
        said = f"{point.count} workers: the data cannot tell ({point.low:.2f} to {point.high:.2f}×, 90 %)."
    further = found.next_to_measure([most + 1, *(most * times for times in (2, 3, 4))])
    cheapest = f" What would tell the laws apart at the least cost: {further} workers." if further else ""
    return [said + cheapest]
