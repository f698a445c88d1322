"""Tables and figures of speech: rows as text and as HTML, seconds and shares as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from cooptim_lab.speedup import Row

if TYPE_CHECKING:
    from .live import Picture

Cells = list[list[str]]
"""Rows of text, the header first."""


class Table:
    """Shown as an HTML table in a notebook and as aligned columns anywhere else.

    Parameters
    ----------
    cells
        The header first.
    notes
        Lines under it.
    """

    def __init__(self, cells: Cells, notes: Sequence[str] = ()) -> None:
        self.cells, self.notes = cells, tuple(notes)

    def __repr__(self) -> str:
        columns = list(zip(*self.cells, strict=True))
        widths = [max(map(len, column)) for column in columns]
        justify = [str.rjust if _is_numeric(column[1:]) else str.ljust for column in columns]
        head, *rows = [
            "  ".join(place(cell, width) for place, cell, width in zip(justify, row, widths, strict=True)).rstrip()
            for row in self.cells
        ]
        rule = "  ".join("─" * width for width in widths)
        return "\n".join([head, rule, *rows, *self.notes])

    def _repr_html_(self) -> str:
        sides = ["right" if _is_numeric(column[1:]) else "left" for column in zip(*self.cells, strict=True)]
        header, *rows = [
            "".join(
                f'<{tag} style="text-align:{side}">{escape(cell)}</{tag}>'
                for side, cell in zip(sides, row, strict=True)
            )
            for tag, row in zip(["th"] + ["td"] * len(self.cells), self.cells, strict=False)
        ]
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        notes = "".join(f"<div>{escape(note)}</div>" for note in self.notes)
        return f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>{notes}"


def rows_table(rows: Sequence[Row]) -> Cells:
    """Measured rows: what `compare` and `speedup` end in."""
    is_accuracy = any(row.metric_name == "accuracy" for row in rows)
    has_rounds = any(row.repeats > 1 for row in rows)
    name = "accuracy" if is_accuracy else rows[0].metric_name
    head = ["", "workers", "seconds", "P = T_c/T_p", "speedup 1/P", *(["range of 1/P"] if has_rounds else [])]
    cells = [[*head, f"held-out {name}", "parameters"]]
    for row in rows:
        spread = ["" if row.way == "baseline" else f"{row.low:.2f} – {row.high:.2f}"] if has_rounds else []
        metric = percent(row.metric) if is_accuracy else f"{row.metric:.4g}"
        if row.spread is not None:
            metric += f" ± {percent(row.spread) if is_accuracy else f'{row.spread:.2g}'}"
        ratios = [f"{row.ratio:.2f}", f"{row.speedup:.2f}×"]
        cells.append(
            [row.title, str(row.workers), f"{row.seconds:.3f}", *ratios, *spread, metric, f"{row.parameters:,}"]
        )
    return cells


def picture_table(picture: Picture) -> Table:
    """The measured rows of a picture, with every doubt under them."""
    return Table(picture.table, row_notes(list(picture.rows.values()), picture.notes))


def row_notes(rows: Sequence[Row], notes: Sequence[str] = ()) -> list[str]:
    """What a reader of such a table must know: how to read it, and every doubt."""
    doubts = [f"⚠ {row.title}: {warning}" for row in rows for warning in row.warnings]
    return ["P below 1 is better: the way is faster than the network as it is.", *doubts, *notes]


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, in three figures at most."""
    if seconds < 120:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def percent(share: float) -> str:
    """0.9666 as 96.7 %."""
    return f"{share:.1%}".replace("%", " %")


def _is_numeric(cells: Sequence[str]) -> bool:
    """Whether a column is of numbers, to be read by their ends."""
    return any(cells) and all(cell[:1].isdigit() for cell in cells if cell)
