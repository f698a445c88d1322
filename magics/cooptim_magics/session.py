"""What one notebook has: its shell, its current task, its runs.

It keeps them for the commands and the panel, and must not know what these do with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

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
    plans: dict[str, Plan] = field(default_factory=dict)
    """That were found last, by the task's name."""

    @property
    def current_task(self) -> Task:
        """The task defined last, or the built-in one."""
        return self.task or digits()


_sessions: dict[int, Session] = {}


def session(shell: InteractiveShell) -> Session:
    """What the notebook of this shell has."""
    return _sessions.setdefault(id(shell), Session(shell))


def forget(shell: InteractiveShell) -> None:
    """The next time, the notebook of this shell has nothing."""
    _sessions.pop(id(shell), None)
