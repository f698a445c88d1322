"""A cell's body: run like any cell in the notebook's own namespace, the names it bound, the task that they make.

It must not know which command the cell belongs to.
"""

from __future__ import annotations

import ast
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

from cooptim_lab.task import Task, misspelt


class BodyFailed(Exception):
    """The body raised; its own traceback is under the cell already."""

    def _render_traceback_(self) -> list[str]:
        return [f"{self}"]


def task_from_body(shell: InteractiveShell, body: str) -> Task:
    """The task that a body defines; of names that look like one of a task's but are none, it tells.

    Raises
    ------
    BodyFailed
        When it raised.
    InputError
        When what it defines is no task.
    """
    if not body.strip():
        return Task.from_names({})  # says what is missing
    names = run_body(shell, body, "no task was defined")
    task = Task.from_names(names)
    for line in misspelt(names):
        print(f"⚠ {line}")
    return task


def run_body(shell: InteractiveShell, body: str, purpose: str) -> dict[str, Any]:
    """Execute the body and return what it bound at its top level, by name. Names of earlier cells are not among them.

    Raises
    ------
    BodyFailed
        When it raised.
    """
    before = dict(shell.user_ns)
    outcome = shell.run_cell(body, store_history=False)
    if not outcome.success:
        raise BodyFailed(f"the body failed, see above: {purpose}")
    names = bound_names(shell.transform_cell(body))
    if "*" in names:  # a star import may have brought any name that is new or another now
        names += [name for name, value in shell.user_ns.items() if before.get(name) is not value]
    return {name: shell.user_ns[name] for name in names if name in shell.user_ns}


def bound_names(source: str) -> list[str]:
    """The names that a module's top level binds: by assignment, def, class, import, for, with."""
    names: dict[str, None] = {}

    def visit(node: ast.AST) -> None:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names[name] = None
                return  # what is bound inside is not the notebook's
            case ast.Lambda() | ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                return
            case ast.Name(id=name, ctx=ast.Store()):
                names[name] = None
            case ast.alias(name=name, asname=asname):
                names[asname or name.split(".")[0]] = None
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return list(names)
