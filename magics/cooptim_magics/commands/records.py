"""`runs`, `show`, `stop`: the runs of this notebook and those on record."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from IPython.display import display

from cooptim_lab.errors import InputError
from cooptim_lab.runs import store

from ..grammar import Command, Option
from ..output import write_output
from ..picture import Picture
from ..plots import mime_bundle
from ..session import Session
from ..tables import Table
from ..view import show_result

MOST_LISTED = 20
TELLING = {
    "workers": "workers {}", "subnets": "N {}", "aggregate": "{}", "plan": "{}", "epochs": "epochs {}",
    "batch": "batch {}", "budget": "{} s",
}  # fmt: skip
"""Options that tell a run from others, and how they are said."""
NONE_YET = "no run on record yet: %cooptim compare makes the first"


def list_runs(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """A table of the newest runs on record."""
    records = store.records()
    if not records:
        print(NONE_YET)
        return
    cells = [["id", "when", "what", "with", "state", "result"]]
    for record in records[:MOST_LISTED]:
        picture = Picture.of(record.title, record.events)
        outcome = "" if record.state in ("running", "lost") else picture.reason or picture.status
        when = store.age(record.created)
        cells.append([record.id, when, record.title, settings(picture.options), record.state, outcome])
    older = len(records) - MOST_LISTED
    display(Table(cells, [f"and {older} older ones in {store.directory()}"] if older > 0 else []))


def settings(options: Mapping[str, Any]) -> str:
    """Of a run's options, those that tell it from others."""
    said = []
    for name, words in TELLING.items():
        value = options.get(name)
        if value not in (None, "", 0, 0.0):
            text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            said.append(words.format(text))
    return ", ".join(said)


def show_run(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """Draw a run from its record: the figure, why it failed, its table, its notes and what its ranks printed."""
    record = store.load(arguments.id) if arguments.id else next(iter(store.records()), None)
    if record is None:
        raise InputError(NONE_YET)
    picture = Picture.of(record.title, record.events)
    picture.state = record.state
    display(mime_bundle(picture, with_reason=False), raw=True)
    if picture.reason:
        print(picture.reason)  # in full: a figure's title has room for some lines only
    show_result(picture)
    write_output(picture.output)


def stop_run(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """Ask a run to end, and wait a moment to say how it ended."""
    running = [run for run in session.runs.values() if not run.ended]
    if arguments.id:
        run = session.runs.get(arguments.id)
        if run is None:
            raise InputError(f"this notebook has no run {arguments.id}: %cooptim runs lists those on record")
        if run.ended:
            raise InputError(f"run {run.id} has ended already: {run.state}")
    elif running:
        run = running[-1]
    else:
        raise InputError("no run is going on in this notebook")
    run.stop()
    state = run.state if run.join(3) else "is about to stop after the step it is in; once more interrupts it"
    print(f"run {run.id}: {state}")


RUN_ID = Option(("id",), "which run (%cooptim runs lists them); the newest when left out", shown_as="ID")

RUNS = Command("runs", "the runs on record, the newest first", list_runs)
SHOW = Command("show", "draw a run again", show_run, options=(RUN_ID,))
STOP = Command("stop", "stop a run; what was trained is kept", stop_run, options=(RUN_ID,))
