"""Published scaling tables, as series of rates: numbers as they were published, each table with its source."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .laws import Series


@dataclass(frozen=True)
class Published:
    """One series of a table.

    Attributes
    ----------
    table, name
        The table's number, and whose series it is.
    what, source
        What was measured, and where it is published.
    role
        "calibrate" (constants may be taken from it) or "form" (a law's form may be tuned on it).
    """

    table: str
    name: str
    what: str
    source: str
    role: str
    series: Series


@cache
def published() -> tuple[Published, ...]:
    """All that are known here. Cautions stand in their names: an outlier, an unusual choice."""
    read = json.loads(Path(__file__).with_name("published.json").read_text(encoding="utf-8"))
    made = []
    for one in read["series"]:
        series = Series(
            counts=tuple(one["counts"]), rates=tuple(one["rates"]), scaling=one["scaling"], per_host=one["per_host"]
        )
        made.append(Published(one["table"], one["name"], series=series, **read["tables"][one["table"]]))
    return tuple(made)
