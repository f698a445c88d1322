"""The user's own modules that ranks have imported, and whether their files are still what was imported.

A rank tells of new ones when a job ends; the kernel looks at the files before the next. Python's own modules, what is
installed, and this package do not change under a notebook.
"""

from __future__ import annotations

import itertools
import os
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path

from .tracebacks import PACKAGE

NEVER_THE_SAME = -1
"""In place of a time: the file changed while the job ran, perhaps after it was imported."""
INSTALLED = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")} | {str(PACKAGE)}
)


class Imported:
    """On a rank."""

    def __init__(self) -> None:
        self._count, self._last = len(sys.modules), next(reversed(sys.modules))
        self._told: set[str] = set()
        self._since = time.time_ns()

    def fresh(self) -> dict[str, int]:
        """Files of modules that are new since the last time, and when each was written (ns since the epoch)."""
        found = {}
        for name in self._new():
            path = getattr(sys.modules[name], "__file__", None)
            if isinstance(path, str) and not path.startswith(INSTALLED) and (written := _written(path)) is not None:
                found[os.path.abspath(path)] = written if written < self._since else NEVER_THE_SAME  # noqa: PTH100
                self._told.add(name)
        self._since = time.time_ns()
        return found

    def _new(self) -> list[str]:
        """Names of modules that came since the last time: those behind the last of then, as a dict keeps its order.

        All, but those that were told, where others have gone meanwhile. To look at every name for every job would write
        to each one's page: 5 MiB that forked ranks share.
        """
        names = reversed(sys.modules)
        new = list(itertools.takewhile(lambda name: name != self._last, names))
        if len(sys.modules) != self._count + len(new):
            new = [name for name in sys.modules if name not in self._told]
        self._count, self._last = len(sys.modules), next(reversed(sys.modules))
        return new


def changed(known: Mapping[str, int]) -> list[str]:
    """The names of those files that are not what was imported, and are still there."""
    return sorted(Path(path).name for path, written in known.items() if _written(path) not in (written, None))


def _written(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116 - once for each module and job
    except OSError:
        return None
