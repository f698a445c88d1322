"""`tune`: how to run the current task, chosen by what this machine can do, and proved."""

from __future__ import annotations

import argparse

from cooptim_lab.codesign.tune import TuneSpec, tune

from ..grammar import Command, from_spec
from ..running import RUNNING, follow, given_options
from ..session import Session
from ..view import show_result


def find_plan(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """The race live; then the proof, what it says, and the race's table."""
    task = session.current_task
    run = tune(task, **given_options(session, arguments))
    picture = follow(session, run, arguments)
    if picture is not None:
        show_result(picture)
    if run.result is not None:
        session.plans[task.name] = run.result.plan


TUNE = Command(
    "tune",
    "choose how to run the current task by what this machine can do, and prove it",
    find_plan,
    options=(*from_spec(TuneSpec), *RUNNING),
    spec=TuneSpec,
)
