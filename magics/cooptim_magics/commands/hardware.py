"""`hardware`: what this process may really use; `--live`: how it is used; `--measure`: what it can do at the most."""

from __future__ import annotations

import argparse

from IPython.display import display

from cooptim_lab import hardware
from cooptim_lab.errors import InputError
from cooptim_lab.studies.ceilings import CeilingSpec, measure_ceilings

from ..grammar import Command, Option, from_spec
from ..machine import MachineScreen
from ..machine_view import show_live
from ..running import RUNNING, follow
from ..session import Session
from ..view import show_result

OWN = ("seconds", "again", "batch")
"""Of the spec's fields, those that matter here."""
LIVE_SECONDS = 300.0
"""Of a live view, where nobody says: nobody closes it."""


def show_hardware(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """One screen of what this process may use; how it is used, live; or the roofline and what was measured."""
    if arguments.measure and arguments.live:
        raise InputError("--measure and --live are both given: leave one out")
    if arguments.measure:
        measure(session, arguments)
        return
    given = [o for o in arguments.command.options if getattr(arguments, o.name) != o.default]
    if others := [o.flags[-1] for o in given if o.name not in ("live", "seconds")]:
        raise InputError(f"{others[0]} belongs to a measurement: write %cooptim hardware --measure")
    if arguments.live:
        is_given = any(o.name == "seconds" for o in given)
        show_live(arguments.seconds if is_given else LIVE_SECONDS)
        return
    if given:
        raise InputError("--seconds belongs to a measurement, or to a live view: add --measure or --live")
    found = hardware.detect()
    print(hardware.summary(found))
    display(MachineScreen(found))


def measure(session: Session, arguments: argparse.Namespace) -> None:
    """The roofline while it is measured, then its tables."""
    given = {name: getattr(arguments, name) for name in OWN}
    picture = follow(session, measure_ceilings(session.current_task, **given), arguments)
    if picture is not None:
        show_result(picture)


HARDWARE = Command(
    "hardware",
    "what this process may really use; --live: how it is used; --measure: what that can do",
    show_hardware,
    options=(
        Option(("--measure",), "measure it, and set this task's layers beside it", kind=bool, default=False),
        Option(("--live",), "cores, quota, memory and ranks as they are used, for --seconds", kind=bool, default=False),
        *(option for option in from_spec(CeilingSpec) if option.name in OWN),
        *RUNNING,
    ),
)
