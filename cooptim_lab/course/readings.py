"""How a claim's quantity is read off a run's record: rows of studies, values that ranks returned, published tables.

A record of another version, whose rows cannot be read, is a trouble that is told, never a figure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..runs.events import Ended
from ..runs.store import Record
from ..scaling.published import published
from ..studies.intervals import student
from ..studies.rows import Row
from .claims import Evidence, Reading

STATES = ("done", "stopped")
"""Runs in these states may have rows."""


def of_task(name: str, reading: Reading) -> Reading:
    """Of runs of the lesson's own task only: what other notebooks have trained answers nothing here."""

    def read(record: Record) -> Evidence | None:
        return reading(record) if record.title.endswith(f": {name}") else None

    return read


def of_rows(reading: Callable[[Mapping[str, Row], Record], Evidence | None], **options: Any) -> Reading:
    """Of a study's rows by title, where it ran with these options."""

    def read(record: Record) -> Evidence | None:
        if any(record.options.get(name) != wanted for name, wanted in options.items()):
            return None
        found = _summary(record).get("rows")
        if found is None:
            return Evidence(value=None, trouble="unfinished")
        try:
            rows = {row.title: row for row in map(Row.from_summary, found)}
        except (KeyError, TypeError, AttributeError):
            return Evidence(value=None, trouble="version")
        return reading(rows, record)

    return read


def speedup(row: Row) -> Evidence:
    """The speedup of a row with its interval."""
    if row.trouble:
        return Evidence(value=None, rounds=row.repeats, trouble="refused" if row.trouble == "refused" else "busy")
    low, high = row.interval or (None, None)
    rounds = row.repeats - row.disturbed
    return Evidence(value=row.speedup, low=low, high=high, rounds=rounds, noise=row.noise)


def mean_metric(row: Row, scale: float = 1.0) -> Evidence:
    """A row's metric over seeds, with Student's interval of the mean."""
    if row.metric is None or row.trouble == "refused":
        return Evidence(value=None, rounds=row.repeats, trouble="refused")
    if row.spread is None:
        return Evidence(value=scale * row.metric, rounds=1)
    half = student(row.repeats - 1) * row.spread / math.sqrt(row.repeats)
    low, high = scale * (row.metric - half), scale * (row.metric + half)
    return Evidence(value=scale * row.metric, low=low, high=high, rounds=row.repeats, noise=scale * row.spread)


def mean_difference(row: Row, other: Row, scale: float = 1.0) -> Evidence:
    """How much larger a row's metric over seeds is than another's, with Welch's interval (see `rows.verdict`)."""
    if row.metric is None or other.metric is None:
        return Evidence(value=None, rounds=row.repeats, trouble="refused")
    value = scale * (row.metric - other.metric)
    if row.spread is None or other.spread is None:
        return Evidence(value=value, rounds=1)
    first, second = row.spread**2, other.spread**2
    error = math.sqrt((first + second) / row.repeats)
    degrees = (row.repeats - 1) * (first + second) ** 2 / (first**2 + second**2) if error else 1.0
    half = scale * student(degrees) * error
    noise = scale * math.sqrt(first + second)
    return Evidence(value=value, low=value - half, high=value + half, rounds=row.repeats, noise=noise)


def value_of_ranks(name: str) -> Reading:
    """A number that a cell on ranks returned under this name; the same arithmetic gives the same number again."""

    def read(record: Record) -> Evidence | None:
        values = _summary(record).get("values") or []
        found = next((each[name] for each in values if isinstance(each, Mapping) and name in each), None)
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found):
            return None
        return Evidence(value=float(found), is_exact=True, told={"value": float(found)})

    return read


def ratio_of_table(table: str, name: str, fewer: int, more: int) -> Evidence:
    """How many times a published rate grew between two counts."""
    (series,) = (one.series for one in published() if one.table == table and one.name == name)
    rates = dict(zip(series.counts, series.rates, strict=True))
    return Evidence(value=rates[more] / rates[fewer], is_exact=True)


def speaks_for(evidence: Evidence, best: str | None, **told: float) -> Evidence:
    """The same, with the reason that it speaks for."""
    return replace(evidence, best=best, told={**evidence.told, **told})


def _summary(record: Record) -> Mapping[str, Any]:
    end = record.events[-1] if record.events else None
    return end.summary if isinstance(end, Ended) and end.state in STATES else {}
