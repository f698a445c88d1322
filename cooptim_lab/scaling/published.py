"""Published scaling tables, as series of rates: numbers as they were published, each table with its source.

What is known of a series' machine and network besides stands there as its `system`, and in its table from where.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .laws import Series
from .systems import System

FABRIC, SERVERS = "one fabric of GPUs", "CPU and server"
"""Families, by which predictions are scored."""
TABLES = Path(__file__).with_name("published.json")


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
    family: str
    """FABRIC or SERVERS; empty where workers are no machines, but users who think between what they ask for."""
    system: System


@cache
def published(path: Path = TABLES) -> tuple[Published, ...]:
    """All that are known here, or that stand in a file of the same form.

    Cautions stand in their names: an outlier, an unusual choice.
    """
    read = json.loads(path.read_text(encoding="utf-8"))
    made = []
    for one in read["series"]:
        system = System(**one.get("system", {}))
        series = Series(
            counts=tuple(one["counts"]), rates=tuple(one["rates"]), scaling=one["scaling"], per_host=one["per_host"],
            servers=tuple(one.get("servers", ())), largest=one.get("largest", 0.0),
        )  # fmt: skip
        table = {name: read["tables"][one["table"]][name] for name in ("what", "source", "role")}
        made.append(Published(one["table"], one["name"], series=series, family=one["family"], system=system, **table))
    return tuple(made)
