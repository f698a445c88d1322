"""The session's runs, to be seen again: one as it was, several with their main curves in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cooptim_lab.runs.run import Run

from .curves import Curve
from .picture import Picture


def names_of(runs: Mapping[str, Run[Any]]) -> list[tuple[str, str]]:
    """(what it is called, its id) of each, the newest first."""
    return [(f"{run.id} · {run.title} · {run.state}", run.id) for run in reversed(list(runs.values()))]


def overlaid(runs: Sequence[Run[Any]]) -> dict[str, Any]:
    """What a chart shows of several: the most telling curve of each, and a line of a table about each."""
    pictures = [(run, Picture.of(run.title, run.log.since(0))) for run in runs]
    curves = [renamed for run, picture in pictures for renamed in _main(run.id, picture)]
    table = [["run", "what", "state", "came to"]]
    table += [[run.id, run.title, run.state, picture.status or picture.reason] for run, picture in pictures]
    kinds = {picture.kind for _, picture in pictures}
    first = pictures[0][1]
    labels = first.labels if len(kinds) == 1 else {"x_label": "epoch", "y_label": "loss"}
    return {
        "curves": curves,
        "title": f"{len(runs)} runs",
        "status": "",
        "state": "done",
        "fraction": None,
        "table": table,
        "log_x": first.is_roofline,
        "log_y": all(picture.is_logarithmic for _, picture in pictures),
        **labels,
        "x_end": 0.0,
    }


def _main(id: str, picture: Picture) -> list[Curve]:
    """Of a run, the curve that is not faint; each name once."""
    found = [curve for curve in picture.curves if curve.kind in ("line", "marker")]
    names = list(dict.fromkeys(curve.name for curve in found))[:1]
    return [replace(curve, name=f"{id} · {curve.name}") for curve in found if curve.name in names]
