"""The race between plans and its proof, as tables and curves.

It is given what the events say, and must not know of which run or picture that is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cooptim_lab.codesign.figures import Figure, in_words, interval_in_words

from .curves import Curve
from .tables import Cells
from .words import percent

Row = Mapping[str, Any]
OUT, PROOF = "out", "proof"
MOST_SHOWN = 8
"""Plans of a race that a table shows while it goes on, the best first."""


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
    """The plans, what is known of each, and why it is out."""
    order = in_order(rows)
    shown = [row for row in order if row["state"] != OUT][:MOST_SHOWN] if is_short else order
    has_predictions = any(row.get("predicted") is not None for row in rows)
    head = ["plan", *(["predicted"] if has_predictions else []), "an epoch at its gate"]
    cells = [[*head, "P to the goal", "95 % interval", "rounds", "" if is_short else "why it is out"]]
    for row in shown:
        found = figure_of(row)
        predicted = [_ratio(row.get("predicted"))] if has_predictions else []
        rounds = "" if found is None else str(found.pairs)
        why = row["state"] if is_short and row["state"] != "in" else "" if is_short else row["why"]
        cells.append(
            [row["plan"], *predicted, _ratio(row["gate"]), in_words(found), interval_in_words(found), rounds, why]
        )
    return cells if len(cells) > 1 or not is_short else []


def proof_table(rows: Sequence[Row]) -> Cells:
    """What was trained anew on fresh seeds, beside the default."""
    name = next((row["metric_name"] for row in rows if row["metric_name"]), "score")
    head = ["", "workers", "threads", "seconds to the goal", "P to the goal", "95 % interval", "P of an epoch"]
    cells = [[*head, "95 % interval", "rounds", f"held-out {name}", "parameters"]]
    for row in rows:
        found, epoch = figure_of(row), figure_of(row, "an_epoch")
        is_default = not row["plan"]
        figures = ["", "", "", ""] if is_default else [
            in_words(found), interval_in_words(found), in_words(epoch), interval_in_words(epoch)
        ]  # fmt: skip
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.3f}"
        metric = (
            "" if row["metric"] is None else percent(row["metric"]) if name == "accuracy" else f"{row['metric']:.4g}"
        )
        rounds = "" if epoch is None else str(epoch.pairs)
        title = row["title"] if not row["why"] else f"{row['title']} (could not be trained: {row['why']})"
        places = [str(row["workers"]), str(row["threads"])]
        cells.append([title, *places, seconds, *figures, rounds, metric, f"{row['parameters']:,}"])
    return cells


def race_line(rows: Sequence[Row]) -> str:
    """Who leads, or what was proved."""
    proved = next((row for row in rows if is_proof(row) and row["title"] == "co-designed"), None)
    if proved is not None and (found := figure_of(proved)) is not None:
        between = interval_in_words(found)
        return f"co-designed: P {in_words(found)}{f' ({between}, 95 %)' if between else ''}"
    leading = next((row for row in in_order([row for row in rows if not is_proof(row)]) if figure_of(row)), None)
    return "" if leading is None else f"{leading['plan']} leads: P {in_words(figure_of(leading))}"


def race_curves(rows: Sequence[Row]) -> list[Curve]:
    """P of the best plans with their intervals; of the proof's once there is one. The dashed line is the default."""
    proof = [row for row in rows if is_proof(row) and row["plan"]]
    shown = proof or [row for row in in_order(rows) if row["state"] != OUT][:MOST_SHOWN]
    curves, place = [], 0
    for row in shown:
        found = figure_of(row)
        if found is None or math.isinf(found.value):
            continue
        place += 1
        low = found.value if found.low is None else found.low
        high = found.value if found.high is None or math.isinf(found.high) else found.high
        name = row["title"] if is_proof(row) else row["plan"]
        curves.append(Curve(name, [float(place)], [found.value], [low], [high], kind="marker"))
    if not curves:
        return []
    return [*curves, Curve("the default", [0.5, place + 0.5], [1.0, 1.0], kind="ideal")]


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
