"""What one notebook has: its shell, its current task, its runs.

It keeps them for the commands and the panel, and must not know what these do with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from cooptim_lab.codesign.tuning import Tuning
from cooptim_lab.data.datasets import digits
from cooptim_lab.levers.plan import Plan
from cooptim_lab.runs.run import Run
from cooptim_lab.task import Task


@dataclass
class Session:
    """The runs are by id, the newest last."""

    shell: InteractiveShell
    task: Task | None = None
    runs: dict[str, Run[Any]] = field(default_factory=dict)
    tunings: list[tuple[str, Run[Tuning]]] = field(default_factory=list)
    """With their tasks' names, the newest last; one in the background may still go on."""

    closing: list[Callable[[], None]] = field(default_factory=list)
    """What is to be called when the notebook is forgotten."""

    @property
    def current_task(self) -> Task:
        """The task defined last, or the built-in one."""
        return self.task or digits()

    @property
    def found_plan(self) -> Plan | None:
        """What was found last for the current task; None where nothing was tuned, or no plan was a gain."""
        name = self.current_task.name
        ended = (run.result for task, run in reversed(self.tunings) if task == name and run.result is not None)
        return next((result.plan for result in ended), None) or None


_sessions: dict[int, Session] = {}


def session(shell: InteractiveShell) -> Session:
    """What the notebook of this shell has."""
    return _sessions.setdefault(id(shell), Session(shell))


def forget(shell: InteractiveShell) -> None:
    """The next time, the notebook of this shell has nothing."""
    gone = _sessions.pop(id(shell), None)
    for close in gone.closing if gone is not None else ():
        close()
