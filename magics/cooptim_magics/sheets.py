"""A picture in words: the line that it came to, and its tables with what must stand under them.

Which table stands for which kind of run is decided here, and nowhere else. What it reads of a picture, `Shown` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from cooptim_lab.costs.formulas import CostRow
from cooptim_lab.costs.links import Calibration
from cooptim_lab.costs.work import Step
from cooptim_lab.hardware.ceilings import Ceiling
from cooptim_lab.runs.events import Spent
from cooptim_lab.scaling.here import Figures, Simulated
from cooptim_lab.studies.rows import Row

from .racing import is_proof, proof_table, race_line, race_table
from .roofline import ceilings_line, ceilings_table, layers_table
from .simulating import simulation_line, simulation_notes, simulation_table
from .tables import (
    Cells,
    Table,
    cost_notes,
    costs_line,
    costs_table,
    row_notes,
    rows_line,
    rows_table,
    spent_table,
    summary_line,
)


class Shown(Protocol):
    """What is read of a `Picture`."""

    notes: list[str]
    remarks: list[str]
    rows: dict[str, Row]
    spent: dict[int, Spent]
    costs: list[CostRow]
    links: Calibration | None
    simulated: list[Simulated]
    sampled: Figures | None
    ceilings: dict[tuple[str, str, int, int], Ceiling]
    step: Step | None
    raced: dict[tuple[str, str], Mapping[str, Any]]
    summary: dict[str, Any]

    @property
    def age(self) -> str: ...

    @property
    def has_breakdown(self) -> bool: ...


def score(picture: Shown) -> str:
    """What it gave, in a line; empty where nothing is known yet."""
    if any(row.way != "baseline" for row in picture.rows.values()):
        return rows_line(picture.rows.values())
    if picture.costs:
        return costs_line(picture.costs)
    if picture.simulated:
        return disturbed(picture) or simulation_line(picture.simulated)
    if picture.ceilings:
        return ceilings_line(picture.ceilings.values())
    if picture.raced:
        return race_line(list(picture.raced.values()))
    if "seconds" not in picture.summary:
        return ""
    return " · ".join(part for part in (summary_line(picture.summary), picture.age) if part)


def disturbed(picture: Shown) -> str:
    """That a simulation was measured on a busy machine, in place of its headline; empty where it was not."""
    return next((note for note in picture.notes if note.startswith("busy:")), "")


def table(picture: Shown) -> Cells:
    """The measured rows as text, or where the time of ranks went; the header first; empty while there is none."""
    if picture.rows:
        return rows_table(list(picture.rows.values()))
    if picture.costs:
        return costs_table(picture.costs)
    if picture.simulated:
        return simulation_table(picture.simulated)
    if picture.ceilings:
        return [cells[:-1] for cells in ceilings_table(picture.ceilings.values())]  # its words would fill a screen
    if picture.raced:
        proof = [row for row in picture.raced.values() if is_proof(row)]
        return proof_table(proof) if proof else race_table(list(picture.raced.values()), is_short=True)
    return spent_table(picture.spent) if picture.has_breakdown else []


def full_table(picture: Shown) -> Table:
    """The table with what must stand under it: how to read it, and every doubt."""
    doubts = [f"⚠ {note}" for note in dict.fromkeys(picture.notes)]
    if picture.costs:
        return Table(table(picture), [*cost_notes(picture.links), *picture.remarks, *doubts])
    if picture.simulated:
        notes = [] if disturbed(picture) else simulation_notes(picture.simulated, picture.sampled)
        return Table(table(picture), [*notes, *picture.remarks, *doubts])
    if picture.ceilings:
        return Table(ceilings_table(picture.ceilings.values()), [*picture.remarks, *doubts])
    if picture.raced:
        return Table(table(picture), [*picture.summary.get("sentences", ()), *picture.remarks, *doubts])
    return Table(table(picture), row_notes(list(picture.rows.values()), picture.notes))


def full_tables(picture: Shown) -> list[Table]:
    """That, and of a machine's ceilings a task's layers beside them."""
    layers = [layers_table(picture.step, picture.ceilings.values())] if picture.step is not None else []
    raced = [row for row in picture.raced.values() if not is_proof(row)]
    said = ["The race: each plan beside the default of the same round."]
    race = [Table(race_table(raced), said)] if raced else []
    return [*([full_table(picture)] if table(picture) else []), *layers, *race]
