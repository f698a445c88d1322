"""`hardware`: what this process may really use, as the engine finds it; nothing is measured here."""

from __future__ import annotations

import argparse

from IPython.display import display

from cooptim_lab import hardware

from ..grammar import Command
from ..session import Session
from ..tables import Table


def show_hardware(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """A table of what this process may use."""
    found = hardware.detect()
    print(hardware.summary(found))
    cells = [["what", "value", "what it means"], *(list(row) for row in hardware.rows(found))]
    display(Table(cells, [f"⚠ {warning}" for warning in found.warnings]))


HARDWARE = Command("hardware", "what this process may really use", show_hardware)
