"""The race between plans and its proof, as tables and curves.

It is given what the events say, and must not know of which run or picture that is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cooptim_lab.codesign.figures import Figure, in_words, interval_in_words
from cooptim_lab.codesign.tuning import AS_IS, PLAN, TUNED

from .curves import Curve
from .tables import Cells
from .words import percent

Row = Mapping[str, Any]
OUT, WON, PROOF = "out", "won", "proof"
MOST_SHOWN = 8
"""Plans of a race that a table shows while it goes on, the best first."""
MOST_FALLEN = 3
"""Beside those, of the ones that were trained and are out."""
MOST_NAMED = 3
"""Of plans that are out for the same reason, and were never trained."""
NUMBER = re.compile(r"\d+(?:\.\d+)?")
HIGHEST = 2.0
"""Of a bar, times the highest dot or 1: that of two rounds would flatten all dots. The table has it whole."""


def is_proof(row: Row) -> bool:
    """Whether it is a training of the proof, and not of the race."""
    return row["state"] == PROOF


def figure_of(row: Row, name: str = "to_goal") -> Figure | None:
    """P of a row: to the goal, or of an epoch."""
    return None if row[name] is None else Figure.from_summary(row[name])


def in_order(rows: Sequence[Row]) -> list[Row]:
    """Of the race: those that are in, the best first; then those that are out."""

    def key(row: Row) -> tuple[bool, float, float]:
        found = figure_of(row)
        return row["state"] == OUT, math.inf if found is None else found.value, row["gate"] or math.inf

    return sorted(rows, key=key)


def race_table(rows: Sequence[Row], *, is_short: bool = False) -> Cells:
    """The plans, what is known of each, and why it is out; those that were never trained, by their reason.

    The short one has the best of those that are in, and below them the best of those that were trained and are out.
    """
    shown = _leading(rows) + _fallen(rows) if is_short else in_order(rows)
    has_predictions = any(row.get("predicted") is not None for row in rows)
    head = ["plan", *(["predicted"] if has_predictions else []), "an epoch at its gate"]
    cells = [[*head, "P to the goal", "95 % interval", "rounds", "why it is out"]]
    for alike in _alike(shown):
        found = figure_of(alike[0])
        predicted = [_range([each.get("predicted") for each in alike])] if has_predictions else []
        rounds = "" if found is None else str(found.pairs)
        gate = _range([each["gate"] for each in alike])
        cells.append([_names(alike), *predicted, gate, in_words(found), interval_in_words(found), rounds, _why(alike)])
    return cells if len(cells) > 1 or not is_short else []


def _alike(rows: Sequence[Row]) -> list[list[Row]]:
    """One by one; but those that were never trained, and are out for the same reason, together."""
    made: dict[object, list[Row]] = {}
    for place, row in enumerate(rows):
        is_untrained = row["state"] == OUT and figure_of(row) is None
        made.setdefault(NUMBER.sub("#", row["why"]) if is_untrained else place, []).append(row)
    return list(made.values())


def _names(rows: Sequence[Row]) -> str:
    names = [row["plan"] or "the default" for row in rows]
    if len(names) == 1:
        return names[0]
    more = f"; and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{len(names)} plans: {'; '.join(names[:MOST_NAMED])}{more}"


def _why(rows: Sequence[Row]) -> str:
    """Why they are out; where that has one number, from the least to the greatest."""
    row = rows[0]
    numbers = [NUMBER.findall(each["why"]) for each in rows]
    if len(rows) == 1 or any(len(each) != 1 for each in numbers):
        return row["why"] or (row["state"] if row["state"] == WON else "")
    found = sorted((each[0] for each in numbers), key=float)
    return NUMBER.sub(found[0] if found[0] == found[-1] else f"{found[0]} to {found[-1]}", row["why"])


def _leading(rows: Sequence[Row]) -> list[Row]:
    return [row for row in in_order(rows) if row["state"] != OUT][:MOST_SHOWN]


def _fallen(rows: Sequence[Row]) -> list[Row]:
    """Those that were trained and are out, the best first."""
    return [row for row in in_order(rows) if row["state"] == OUT and figure_of(row)][:MOST_FALLEN]


def proof_table(rows: Sequence[Row]) -> Cells:
    """What was trained anew on fresh seeds, beside the default."""
    name = next((row["metric_name"] for row in rows if row["metric_name"]), "score")
    head = ["", "workers", "threads", "seconds to the goal", "P to the goal", "95 % interval", "P of an epoch"]
    cells = [[*head, "95 % interval", "rounds", f"held-out {name}", "parameters"]]
    for row in rows:
        found, epoch = figure_of(row), figure_of(row, "an_epoch")
        is_default = not row["plan"]
        figures = ["", "", "", ""] if is_default else [
            _with_misses(found), interval_in_words(found), in_words(epoch), interval_in_words(epoch)
        ]  # fmt: skip
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.3f}"
        metric = (
            "" if row["metric"] is None else percent(row["metric"]) if name == "accuracy" else f"{row['metric']:.4g}"
        )
        rounds = "" if epoch is None else str(epoch.pairs)
        name_of = {AS_IS: "as it is", TUNED: f"as it is, tuned: {row['plan']}", PLAN: f"co-designed: {row['plan']}"}
        named = name_of.get(row["title"], row["title"])
        title = named if not row["why"] else f"{named} (could not be trained: {row['why']})"
        places = [str(row["workers"]), str(row["threads"])]
        cells.append([title, *places, seconds, *figures, rounds, metric, f"{row['parameters']:,}"])
    return cells


def race_line(rows: Sequence[Row]) -> str:
    """Who leads, or what was proved."""
    proved = next((row for row in rows if is_proof(row) and row["title"] == "co-designed"), None)
    if proved is not None and (found := figure_of(proved)) is not None:
        doubt = "" if found.is_told_apart else ", no gain told apart from noise"
        return f"co-designed: {_with_interval(found)}{doubt}"
    leading = next((row for row in in_order([row for row in rows if not is_proof(row)]) if figure_of(row)), None)
    found = None if leading is None else figure_of(leading)
    return "" if leading is None or found is None else f"{leading['plan']} leads: {_with_interval(found)}"


def race_curves(rows: Sequence[Row]) -> list[Curve]:
    """P of the best plans with their intervals, at their rows of the table; of the proof's once there is one.

    The dashed line is the default.
    """
    proof = [row for row in rows if is_proof(row)]
    known = [(place, row, found) for place, row in enumerate(proof or _leading(rows), 1) if (found := figure_of(row))]
    dots = [(place, row, found) for place, row, found in known if not math.isinf(found.value) and row["plan"]]
    top = HIGHEST * max([1.0, *(found.value for _, _, found in dots)])
    curves = []
    for place, row, found in dots:
        low = found.value if found.low is None else found.low
        high = found.value if found.high is None else min(found.high, top)
        name = row["title"] if is_proof(row) else row["plan"]
        curves.append(Curve(name, [float(place)], [found.value], [low], [high], kind="marker"))
    if not curves:
        return []
    return [*curves, Curve("the default", [0.5, dots[-1][0] + 0.5], [1.0, 1.0], kind="ideal")]


def _with_misses(found: Figure | None) -> str:
    """The figure; where some trainings missed the goal, of how many."""
    if found is None or not found.misses or math.isinf(found.value):
        return in_words(found)
    return f"{in_words(found)}, missed {found.misses} of {found.pairs}"


def _with_interval(found: Figure) -> str:
    between = interval_in_words(found)
    missed = f"missed {found.misses} of {found.pairs} times" if found.misses and not math.isinf(found.value) else ""
    beside = "; ".join(part for part in (f"{between}, 95 %" if between else "", missed) if part)
    return f"P {in_words(found)}{f' ({beside})' if beside else ''}"


def _range(values: Sequence[float | None]) -> str:
    """Of what is known, from the least to the greatest."""
    known = sorted(f"{value:.2f}" for value in values if value is not None)
    if not known:
        return ""
    return known[0] if known[0] == known[-1] else f"{known[0]} – {known[-1]}"
