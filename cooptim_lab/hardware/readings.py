"""How one fact is read so that a failed reading is None, never 0 and never an exception. Knows no hardware.

Files are read under a `root`, so that a test can build a machine of its own; `ROOT` is the real one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
ROOT = Path("/")


def least(*values: Any) -> Any:
    """The smallest of the values that are known, or None."""
    return min((value for value in values if value is not None), default=None)


def text(path: Path) -> str | None:
    """A small file's text, without the line's end."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def number(written: str | None) -> int | None:
    """The whole number that is written there."""
    try:
        return None if written is None else int(written)
    except ValueError:
        return None


def cpu_list(written: str | None) -> int | None:
    """How many CPUs a kernel list such as "0-3,8" names."""
    try:
        ranges = [[int(end) for end in part.split("-")] for part in (written or "").split(",")]
    except ValueError:
        return None
    return sum(ends[-1] - ends[0] + 1 for ends in ranges)


def installed_version(distribution: str) -> str | None:
    """The version of a distribution that is installed in this environment, without importing it."""
    from importlib import metadata  # costs as much as all the rest

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def sysctl(root: Path) -> dict[str, str]:
    """macOS's answers by name; empty elsewhere, and under a test's root, whose machine this is not."""
    if sys.platform != "darwin" or root != ROOT:
        return {}
    import subprocess

    try:
        answer = subprocess.run(["sysctl", "hw", "machdep.cpu"], capture_output=True, text=True, timeout=2, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(line.split(": ", 1) for line in answer.stdout.splitlines() if ": " in line)
