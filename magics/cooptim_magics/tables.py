"""Results as text: cells of a table and the notes under it, or one line; and cells as aligned columns and as HTML.

It is given what was measured, and must not know of which run or picture that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any
from unicodedata import east_asian_width

from cooptim_lab.costs.formulas import CostRow
from cooptim_lab.costs.links import Calibration, Link
from cooptim_lab.runs.events import Spent
from cooptim_lab.scaling.losses import explain, karp_flatt, lost
from cooptim_lab.studies.beyond import beyond
from cooptim_lab.studies.rows import Row

from .words import duration, percent

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
        widths = [max(map(_width, column)) for column in columns]
        justify = [_right if _is_numeric(column[1:]) else _left for column in columns]
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
    """Measured rows: what `compare` and `speedup` end in. One that has no P says why in its place."""
    name = next((row.metric_name for row in rows if row.metric_name), "score")
    has_rounds = any(row.repeats > 1 for row in rows)
    has_intervals = any(row.interval is not None for row in rows)  # none in records of old
    head = ["", "workers", "threads", "seconds", "P = T_c/T_p", "speedup 1/P"]
    head += [*(["95 % interval"] if has_intervals else []), *(["range of 1/P"] if has_rounds else [])]
    head += [f"held-out {name}", "parameters"]
    return [head, *(_row_cells(row, has_intervals=has_intervals, has_rounds=has_rounds) for row in rows)]


def _row_cells(row: Row, *, has_intervals: bool, has_rounds: bool) -> list[str]:
    figures = ["", row.figure] if row.ratio is None else [f"{row.ratio:.2f}", row.figure]
    is_compared = row.way != "baseline" and row.repeats > 1
    if has_intervals:
        figures.append("{:.2f} – {:.2f}".format(*row.interval) if is_compared and row.interval is not None else "")
    if has_rounds:
        has_range = is_compared and row.low is not None and row.high is not None
        figures.append(f"{row.low:.2f} – {row.high:.2f}" if has_range else "")
    as_text = percent if row.metric_name == "accuracy" else "{:.4g}".format
    metric = "" if row.metric is None else as_text(row.metric)
    if row.spread is not None:
        metric += f" ± {percent(row.spread) if row.metric_name == 'accuracy' else f'{row.spread:.2g}'}"
    threads = "" if row.threads is None else str(row.threads)
    seconds = "" if row.seconds is None else f"{row.seconds:.3f}"
    parameters = "" if row.parameters is None else f"{row.parameters:,}"
    return [row.title, str(row.workers), threads, seconds, *figures, metric, parameters]


def rows_line(rows: Iterable[Row]) -> str:
    """How much faster each way is than the network as it is, where that is told apart, or once why nobody knows."""
    others = [row for row in rows if row.way != "baseline"]
    said = {row.figure for row in others}
    if len(said) == 1 and not any(row.is_measured for row in others):
        return said.pop()
    return " · ".join(f"{row.title} {row.figure}{_beside_noise(row)}" for row in others)


def _beside_noise(row: Row) -> str:
    return " (no gain told apart from noise)" if row.is_told_apart is False else ""


def summary_line(summary: Mapping[str, Any]) -> str:
    """What one training took and what its network is worth."""
    name, value = summary["metric_name"], summary["metric"]
    parts = [
        f"{duration(summary['seconds'])} of training",
        f"held-out {name} {percent(value) if name == 'accuracy' else f'{value:.4g}'}",
        f"{summary['parameters']:,} parameters",
    ]
    return " · ".join(parts)


def spent_table(spent: Mapping[int, Spent]) -> Cells:
    """Where the time of every rank went, per step."""
    cells = [["rank", "steps", "ms a step", "computing", "communicating", "waiting", "kB sent a step"]]
    for rank, one in sorted(spent.items()):
        total, steps = one.compute + one.communication + one.waiting, max(1, one.steps)
        shares = [percent(part / total if total else 0) for part in (one.compute, one.communication, one.waiting)]
        cells.append(
            [str(rank), f"{one.steps:,}", f"{total / steps * 1e3:.2f}", *shares, f"{one.sent / steps / 1e3:.1f}"]
        )
    return cells


def step_parts(spent: Spent) -> dict[str, float]:
    """Seconds of one of a rank's steps, by what they went to."""
    return {name: getattr(spent, name) / max(1, spent.steps) for name in ("compute", "communication", "waiting")}


def spent_verdict(spent: Mapping[int, Spent]) -> str:
    """What keeps the ranks from being as many times faster, and how serial that makes the run."""
    if len(spent) < 2:
        return ""
    waiting, exchanging = lost([vars(one) for one in spent.values()])
    busy = 1 - waiting - exchanging
    said = f"Of the ranks' time {explain(waiting, exchanging)}."
    if busy * len(spent) <= 1:
        return f"{said} All {len(spent)} together compute no more in a second than one alone."
    return f"{said} Serial fraction (Karp and Flatt) so: {karp_flatt(busy * len(spent), len(spent)):.3f}"


def costs_table(rows: Sequence[CostRow]) -> Cells:
    """What a step costs by each way: predicted beside measured."""
    cells = [["way", "workers", "predicted ms", "measured ms", "range", "off by", "of it exchange"]]
    for row in rows:
        spread = f"{1e3 * row.low:.3g} – {1e3 * row.high:.3g}"
        times = [f"{1e3 * row.predicted:.2f}", f"{1e3 * row.measured:.2f}", spread]
        off = f"{100 * row.off:+.0f} %".replace("-", "−")
        cells.append([row.way, str(row.workers), *times, off, percent(row.exchange / row.predicted)])
    return cells


def costs_line(rows: Sequence[CostRow]) -> str:
    """What a step of the most workers costs by each way."""
    most = max(row.workers for row in rows)
    parts = [f"{row.way} {1e3 * row.measured:.3g} ms" for row in rows if row.workers == most]
    return f"a step of {most} workers: " + " · ".join(parts)


def cost_notes(links: Calibration | None) -> list[str]:
    """What the predictions were reckoned with."""
    if links is None:
        return []
    named = {"inside a host": links.local, "between hosts": links.between}
    return [_link(where, link) for where, link in named.items() if link is not None]


def _link(where: str, link: Link) -> str:
    rates = f"β = {link.beta / 1e6:,.4g} MB/s, {link.both / 1e6:,.4g} each way while both are in use"
    return f"{where}: α = {1e6 * link.alpha:.3g} µs, {rates}"


def row_notes(rows: Sequence[Row], notes: Sequence[str] = ()) -> list[str]:
    """What a reader of such a table must know: how to read it, and every doubt."""
    serial = [(row.workers, row.serial_fraction) for row in rows if row.way == "sharded"]
    said = ", ".join(f"{fraction:.2f} on {workers} workers" for workers, fraction in serial if fraction is not None)
    fraction = [f"Serial fraction (Karp and Flatt): {said}."] if said else []
    if used := [(row.workers, row.efficiency) for row in rows if row.way == "sharded" and row.workers > 1]:
        each = ", ".join(f"{value:.2f} on {workers} workers" for workers, value in used if value is not None)
        why = [
            f"Of {row.workers} workers' time {explain(*row.lost, row.efficiency)}."
            for row in rows
            if row.lost is not None and row.efficiency is not None and row.workers > 1
        ]
        fraction = [*why, *([f"Efficiency, 1/P over the workers: {each}."] if each else []), *fraction]
    how = ["P below 1 is better: the way is faster than the network as it is."] if any(r.ratio for r in rows) else []
    return [*how, *fraction, *beyond(rows), *(f"⚠ {doubt}" for doubt in row_doubts(rows)), *notes]


def row_doubts(rows: Sequence[Row]) -> list[str]:
    """Every doubt, with the row it is about; one that all rows share, once."""
    trained = [row for row in rows if row.repeats]
    shared = set.intersection(*(set(row.warnings) for row in trained)) if len(trained) > 1 else set()
    of_all = [warning for warning in trained[0].warnings if warning in shared] if trained else []
    return of_all + [f"{row.title}: {warning}" for row in rows for warning in row.warnings if warning not in shared]


def _width(text: str) -> int:
    """In places: a Chinese character takes two."""
    return sum(1 + (east_asian_width(each) in "WF") for each in text)


def _left(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _right(text: str, width: int) -> str:
    return " " * (width - _width(text)) + text


def _is_numeric(cells: Sequence[str]) -> bool:
    """Whether a column is of numbers, to be read by their ends."""
    return any(cells) and all(cell[:1].isdigit() for cell in cells if cell)
