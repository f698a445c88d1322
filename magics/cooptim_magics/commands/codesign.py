"""`tune`: how to run the current task, chosen by what this machine can do, and proved."""

from __future__ import annotations

import argparse
import dataclasses

from cooptim_lab.codesign.tune import TuneSpec, tune

from ..grammar import Command, from_spec
from ..running import RUNNING, follow, given_options
from ..session import Session
from ..view import Interrupted, show_result


def find_plan(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """The race live; then the proof, what it says, and the race's table."""
    task = session.current_task
    run = tune(task, **given_options(session, arguments))
    try:
        picture = follow(session, run, arguments)
        if picture is not None:
            show_result(picture)
    except Interrupted:
        if run.result is not None:
            print("\n".join(run.result.sentences()))
        raise
    finally:
        if run.result is not None:
            session.plans[task.name] = run.result.plan


SHOWN_AS = {"keep_accuracy": "SHARE", "levers": "NAMES"}
OPTIONS = tuple(
    dataclasses.replace(each, shown_as=SHOWN_AS.get(each.name, each.shown_as))
    for each in from_spec(TuneSpec)
    if each.name != "workers"  # which are best is found
)

TUNE = Command(
    "tune",
    "choose how to run the current task by what this machine can do, and prove it",
    find_plan,
    options=(*OPTIONS, *RUNNING),
    spec=TuneSpec,
)
