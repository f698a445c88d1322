"""`hardware`: what this process may really use, as the engine finds it; `--measure`: what that can do at the most."""

from __future__ import annotations

import argparse

from IPython.display import display

from cooptim_lab import hardware
from cooptim_lab.errors import InputError
from cooptim_lab.studies.ceilings import CeilingSpec, measure_ceilings

from ..grammar import Command, Option, from_spec
from ..running import RUNNING, follow
from ..session import Session
from ..tables import Table
from ..view import show_result

OWN = ("seconds", "again", "batch")
"""Of the spec's fields, those that matter here."""


def show_hardware(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """A table of what this process may use; or the roofline, and the table of what was measured."""
    if arguments.measure:
        measure(session, arguments)
        return
    given = [o.flags[-1] for o in arguments.command.options if getattr(arguments, o.name) != o.default]
    if given:
        raise InputError(f"{given[0]} belongs to a measurement: write %cooptim hardware --measure")
    found = hardware.detect()
    print(hardware.summary(found))
    cells = [["what", "value", "what it means"], *(list(row) for row in hardware.rows(found))]
    display(Table(cells, [f"⚠ {warning}" for warning in found.warnings]))


def measure(session: Session, arguments: argparse.Namespace) -> None:
    """The roofline while it is measured, then its tables."""
    given = {name: getattr(arguments, name) for name in OWN}
    picture = follow(session, measure_ceilings(session.current_task, **given), arguments)
    if picture is not None:
        show_result(picture)


HARDWARE = Command(
    "hardware",
    "what this process may really use; --measure: what that can do",
    show_hardware,
    options=(
        Option(("--measure",), "measure it, and set this task's layers beside it", kind=bool, default=False),
        *(option for option in from_spec(CeilingSpec) if option.name in OWN),
        *RUNNING,
    ),
)
