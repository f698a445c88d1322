"""`task`: what is trained from now on."""

from __future__ import annotations

import argparse

from cooptim_lab.task import NAMES, Task

from ..body import task_from_body
from ..grammar import Command
from ..session import Session
from ..words import percent


def define_task(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """Make the body's names the current task; without a body, say what the current task is."""
    if cell is not None:
        session.task = task_from_body(session.shell, cell)
    print(describe_task(session.current_task))


def describe_task(task: Task) -> str:
    """One line: what is trained on what."""
    model = getattr(task.model, "__name__", type(task.model).__name__)
    if hasattr(task.model, "parameters") and not isinstance(task.model, type):
        model += f" of {sum(p.numel() for p in task.model.parameters()):,} parameters"
    data = (
        f"{len(task.data[0])} rows"
        if isinstance(task.data, (tuple, list))
        else getattr(task.data, "__name__", "a Dataset")
    )
    given = [name for name in NAMES[2:] if getattr(task, name) is not None]
    own = f", own {', '.join(given)}" if given else ""
    return f"{task.name}: {model} on {data}{own}; {percent(task.held_out)} held out"


TASK = Command(
    "task",
    "define what is trained from now on; without a body, show it",
    define_task,
    body="defines model, data, and if wanted loss, optimizer, metric, subnet(i)",
)
