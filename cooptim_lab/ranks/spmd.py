"""A notebook cell on every rank: single program, multiple data.

Names persist between cells, in the rank's own memory: they go when the ranks do. `comm`, `rank` and `size` are set
anew for every cell; mpi4py programs that use `MPI.COMM_WORLD` work as they are.
"""

from __future__ import annotations

import ast
import linecache
from typing import Any

from ..errors import InputError
from ..training.context import Context

FILENAME = "<ranks cell>"

_names: dict[str, Any] = {"__name__": "__main__"}


def check_source(source: str) -> None:
    """Refuse a cell that is empty or not Python, before it travels.

    Raises
    ------
    InputError
    """
    try:
        body = ast.parse(source, FILENAME).body
    except SyntaxError as error:
        raise InputError(f"line {error.lineno} of the body is not Python: {error.msg}") from None
    if not body:
        raise InputError("the body is empty: write what every rank is to run, e.g. print(rank, size)")


def run_cell(context: Context, source: str) -> Any:
    """Execute a cell's source on this rank; returns the value of its last expression, or None.

    The communicator lives as long as the cell: MPI's own `COMM_WORLD` is always the whole pool.
    """
    linecache.cache[FILENAME] = (len(source), None, source.splitlines(keepends=True), FILENAME)  # for tracebacks
    _names.update(comm=context.comm, rank=context.rank, size=context.size)
    body = ast.parse(source, FILENAME)
    last = body.body[-1] if body.body and isinstance(body.body[-1], ast.Expr) else None
    if last is not None:
        body.body.pop()
    exec(compile(body, FILENAME, "exec"), _names)
    return None if last is None else eval(compile(ast.Expression(last.value), FILENAME, "eval"), _names)
