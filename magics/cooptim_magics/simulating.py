"""A simulation as curves, cells, lines and bars: every way at every number of workers, on a machine that is not here.

It is given what was foretold, and must not know of which run or picture that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cooptim_lab.scaling.here import Figures, Simulated

from .curves import Curve
from .tables import Cells
from .words import percent

UNMEASURED = (
    "⚠ workers take turns on cores here, and what that costs was not measured: this promises too much; ask for so few "
    "--cores from the start"
)
MUCH = 0.1
"""A part that is less of a step is not named."""


def simulation_curves(rows: Sequence[Simulated]) -> list[Curve]:
    """Of each way the speedup over the number of workers; where it is the fastest, its interval."""
    curves = [
        Curve(way, [float(row.workers) for row in of], [row.speedup for row in of])
        for way in dict.fromkeys(row.way for row in rows)
        if (of := [row for row in rows if row.way == way])
    ]
    best = fastest(rows)
    for way in dict.fromkeys(row.way for row in best):
        of = [row for row in best if row.way == way]
        ends = ([row.alone / row.high for row in of], [row.alone / row.low for row in of])
        curves.append(Curve(way, [float(row.workers) for row in of], [row.speedup for row in of], *ends, kind="marker"))
    return curves


def fastest(rows: Sequence[Simulated]) -> list[Simulated]:
    """At each number of workers from two on, the way whose step is shortest."""
    counts = dict.fromkeys(row.workers for row in rows if row.workers > 1)
    return [min((row for row in rows if row.workers == count), key=lambda row: row.seconds) for count in counts]


def simulation_table(rows: Sequence[Simulated]) -> Cells:
    """A line for each number of workers: of every way milliseconds a step and the speedup; which is fastest."""
    ways = list(dict.fromkeys(row.way for row in rows))
    best = {row.workers: row.way for row in fastest(rows)}
    cells = [["workers", "hosts", *ways, "fastest"]]
    for count in dict.fromkeys(row.workers for row in rows):
        of = {row.way: row for row in rows if row.workers == count}
        said = [f"{1e3 * of[way].seconds:.3g} ms, {of[way].speedup:.2f}×" if way in of else "" for way in ways]
        hosts = max(row.hosts for row in of.values())
        cells.append([str(count), str(hosts), *said, best.get(count, "")])
    return cells


def simulation_line(rows: Sequence[Simulated]) -> str:
    """What the most workers would gain, by the fastest way."""
    best = fastest(rows)
    return _said(best[-1]) if best else f"as it is: {1e3 * rows[0].alone:.3g} ms a step"


def simulation_notes(rows: Sequence[Simulated], measured: Figures | None) -> list[str]:
    """How to read it: what was measured, what is foretold of the fastest, where its time goes."""
    notes = [f"As it is, a step takes {1e3 * rows[0].alone:.3g} ms here: measured. All else is foretold."]
    for row in fastest(rows)[-1:]:
        named = [f"{percent(of / row.seconds)} {name}" for name, of in _largest(row.parts) if of > MUCH * row.seconds]
        notes.append(f"{_said(row)}; of its step {', '.join(named)}.")
    if (peak := _turns_back(rows)) is not None:
        notes.append(peak)
    if measured is not None and not measured.late and any(row.turns > 1 for row in rows):
        notes.append(UNMEASURED)
    if measured is not None and max(row.hosts for row in rows) > 1 and measured.links.between is None:
        notes.append("Between hosts a protocol is taken to reach 0.75 of the link; the intervals go from 0.5 to 1.")
    notes.append("A step is one batch, dealt over the workers; of sub-networks the whole of it for each, side by side.")
    return notes


def real_curves(seen: Sequence[tuple[str, int, float]], alone: float) -> list[Curve]:
    """Trainings of the same task, (way, workers, seconds a step), as points: a speedup over the step as it is."""
    curves = []
    for way in dict.fromkeys(way for way, _, _ in seen):
        of = sorted((workers, alone / seconds) for each, workers, seconds in seen if each == way)
        x, y = [float(workers) for workers, _ in of], [speedup for _, speedup in of]
        curves.append(Curve(f"{way}, trained", x, y, y, y, kind="marker"))
    return curves


def _said(row: Simulated) -> str:
    ends = f"{row.alone / row.high:.2f} to {row.alone / row.low:.2f}"
    hosts = f" on {row.hosts} hosts" if row.hosts > 1 else ""
    return f"{row.workers} workers{hosts}: {row.way} is fastest, {row.speedup:.2f}× ({ends}, 90 %)"


def _turns_back(rows: Sequence[Simulated]) -> str | None:
    """From where on more workers make every way slower, if that comes."""
    best = fastest(rows)
    if len(best) < 2:
        return None
    top = min(best, key=lambda row: row.seconds)
    if top is best[-1]:
        return None
    return f"More than {top.workers} workers make it slower: the fastest of all is {top.way} there, {top.speedup:.2f}×."


def _largest(parts: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(parts.items(), key=lambda part: -part[1])


def simulation_bars(rows: Sequence[Simulated]) -> dict[str, Mapping[str, float]]:
    """By way, what a step of the most workers goes to, in seconds."""
    most = max((row.workers for row in rows), default=0)
    return {row.way: row.parts for row in rows if row.workers == most}
