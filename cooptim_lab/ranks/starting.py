"""How a process of this package is started: by which words, and in which environment (started.py is the other end)."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from .started import ASIDE

SCRIPT = Path(__file__).with_name("started.py")

SLACK = "COOPTIM_TIMER_SLACK"
"""Environment variable of a rank: by how many nanoseconds the system may lengthen its sleeps (prctl(2))."""


def command(module: str, *arguments: str) -> list[str]:
    """That runs a module of this room."""
    return [sys.executable, "-P", str(SCRIPT), f"{__package__}.{module}", *arguments]


def put_aside(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Python itself finds no `PYTHONPATH`."""
    return {ASIDE if name == "PYTHONPATH" else name: value for name, value in environment.items()}


def put_back() -> None:
    """For what a program starts: `PYTHONPATH` as it was."""
    if ASIDE in os.environ:
        os.environ["PYTHONPATH"] = os.environ.pop(ASIDE)
