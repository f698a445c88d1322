"""`lab`: the panel."""

from __future__ import annotations

import argparse

from ..grammar import Command
from ..panel import LabPanel
from ..session import Session


def open_lab(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """The panel."""
    LabPanel(session).open()


LAB = Command("lab", "the panel: sliders for workers and N, Run, Stop, live curves", open_lab)
