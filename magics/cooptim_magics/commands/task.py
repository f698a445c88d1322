"""`task`: what is trained from now on, looked at as it is defined."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from IPython.display import display

from cooptim_lab import ways
from cooptim_lab.errors import InputError, PoolError
from cooptim_lab.ranks.shared import shared_pool
from cooptim_lab.task import NAMES, Task

from ..body import task_from_body
from ..grammar import Command
from ..session import Session
from ..tables import Table
from ..words import percent

OPTIONAL = tuple(name for name in NAMES[2:] if name != "name")


def define_task(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """Make the body's names the current task; without a body, say what the current task is.

    A task that no way could train is refused here, and does not become the current one.
    """
    task = session.current_task if cell is None else task_from_body(session.shell, cell)
    try:
        seen = look_at(task)
    except InputError as error:
        if cell is None:
            raise
        kept = f"the task defined before, {session.task.name}" if session.task else "the built-in digits"
        raise InputError(f"{error}; until one fits, commands train {kept}") from None
    if cell is not None:
        session.task = task
    print(describe_task(task))
    if seen is not None:
        display(task_table(seen))


def look_at(task: Task) -> dict[str, Any] | None:
    """What a rank sees of a task (`ways.look`); None where no rank is free to look, which is said.

    Raises
    ------
    LabError
        When the task does not fit.
    """
    if shared_pool().is_busy:
        print("the ranks are busy: the task is looked at when it is trained")
        return None
    run = ways.look(task)
    try:
        return run.wait()[0]
    except KeyboardInterrupt:
        run.stop()
        run.stop()
        print("interrupted: the task is looked at when it is trained")
    except PoolError as error:
        print(f"⚠ no rank can look at the task now: {error}")
    return None


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
    given = [name for name in OPTIONAL if getattr(task, name) is not None]
    own = f", own {', '.join(given)}" if given else ""
    return f"{task.name}: {model} on {data}{own}; {percent(task.held_out)} held out"


def task_table(seen: Mapping[str, Any]) -> Table:
    """The layers, what they can be split into, and how the task is scored."""
    parts = {name: f"{size} {what}" for name, size, what in seen["split"]}
    cells = [["layer", "kind", "outputs of a row", "parameters", "can be split into"]]
    for name, kind, shape, parameters in seen["layers"]:
        cells.append([name, kind, _shape(shape), f"{parameters:,}", parts.get(name, "")])
    frozen = seen["parameters"] - seen["trained"]
    rows = f"{seen['rows']:,} rows to train on, {seen['held_out']:,} held out; a row is {_shape(seen['x'])}"
    notes = [
        f"{seen['parameters']:,} parameters{f', {frozen:,} of them frozen' if frozen else ''}; {rows}",
        f"scored by {seen['score']}; the training loss is {seen['divides']}",
        *([f"sub-networks: {seen['unsplit']}"] if seen["unsplit"] else []),
        *(f"⚠ {line}" for line in seen["findings"]),
    ]
    return Table(cells, notes)


def _shape(shape: list[int]) -> str:
    return " × ".join(map(str, shape)) or "one number"


TASK = Command(
    "task",
    "define what is trained from now on; without a body, show it",
    define_task,
    body="defines model, data, and if wanted loss, optimizer (or named), scheduler, clip, metric, subnet(i), name",
)
