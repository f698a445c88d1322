"""`tune`: how to run the current task, chosen by what this machine can do, and proved."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from cooptim_lab.codesign.tune import TuneSpec, tune

from ..grammar import Command, from_spec
from ..running import RUNNING, follow, given_options
from ..session import Session
from ..view import Interrupted, show_result


def find_plan(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """The race live; then the proof, what it says, and the race's table."""
    task = session.current_task
    run = tune(task, **given_options(session, arguments))
    session.tunings.append((task.name, run))
    try:
        picture = follow(session, run, arguments)
        if picture is not None:
            show_result(picture)
    except Interrupted:
        if run.result is not None:
            print("\n".join(run.result.sentences()))
        raise


HERE: dict[str, dict[str, Any]] = {
    "keep_accuracy": {"shown_as": "SHARE"},
    "levers": {"shown_as": "NAMES"},
    "workers": {"help": "leave it out: which are best is found"},
}
OPTIONS = tuple(dataclasses.replace(each, **HERE.get(each.name, {})) for each in from_spec(TuneSpec))

TUNE = Command(
    "tune",
    "choose how to run the current task by what this machine can do, and prove it",
    find_plan,
    options=(*OPTIONS, *RUNNING),
    spec=TuneSpec,
)
