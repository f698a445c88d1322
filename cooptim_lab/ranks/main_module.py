"""The module `__main__` that cells share on a rank, and what processes that a cell spawns find in its place.

A spawned process runs its parent's main file again, to find what is pickled by name. Cells have no file; so there is
one whenever it is asked for: imports, functions, classes and assignments without a call, of all cells until then. What
else cells do is not done again.
"""

from __future__ import annotations

import ast
import os
import types
from collections.abc import Iterator

ONLY_IF_KNOWN = "try:\n    pass\nexcept NameError:\n    pass"
"""What was made of something that is not made again cannot be made either: the name is missing where it is used."""


class Main(types.ModuleType):
    """An empty `__main__`."""

    def __init__(self) -> None:
        super().__init__("__main__")
        self._definitions: list[ast.stmt] = []
        self._file: int | None = None

    def remember(self, cell: ast.Module) -> None:
        """A cell is about to run."""
        self._definitions += _definitions(cell)

    def __getattr__(self, name: str) -> str:
        # As an attribute, not as a name of cells, which a notebook's are without too.
        if name != "__file__" or not hasattr(os, "memfd_create"):
            raise AttributeError(f"module '__main__' has no attribute {name!r}")
        if self._file is None:
            self._file = os.memfd_create("cells")
        os.truncate(self._file, 0)
        os.pwrite(self._file, ast.unparse(ast.Module(self._definitions, [])).encode(), 0)
        return f"/proc/{os.getpid()}/fd/{self._file}"


def _definitions(cell: ast.Module) -> Iterator[ast.stmt]:
    for statement in cell.body:
        match statement:
            case ast.ImportFrom(module="__future__"):
                pass  # only at a file's beginning
            case ast.Import() | ast.ImportFrom() if "mpi4py" in ast.unparse(statement):
                # A process that Python has spawned has MPI's environment of its parent, and would wait in it for ever.
                yield _within("if __name__ != '__mp_main__':\n    pass", statement)
            case ast.Import() | ast.ImportFrom():
                yield statement
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield _within(ONLY_IF_KNOWN, statement)
            case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
                if not any(isinstance(each, ast.Call | ast.Await) for each in ast.walk(value)):
                    yield _within(ONLY_IF_KNOWN, statement)


def _within(frame: str, statement: ast.stmt) -> ast.stmt:
    around: ast.stmt = ast.parse(frame).body[0]
    assert isinstance(around, ast.If | ast.Try)
    around.body = [statement]
    return around
