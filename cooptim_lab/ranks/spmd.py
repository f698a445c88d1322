"""A notebook cell on every rank: single program, multiple data.

Names persist between cells, in the rank's own memory: they go when the ranks do. `comm`, `rank` and `size` are set
anew for every cell; mpi4py programs that use `MPI.COMM_WORLD` work as they are.
"""

from __future__ import annotations

import ast
import linecache
from collections.abc import Mapping, Sequence
from typing import Any

from ..comm.context import Context
from ..errors import InputError

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


def run_cell(context: Context, source: str, names: Mapping[str, Any] | None = None, only: Sequence[int] = ()) -> Any:
    """Execute a cell's source on this rank; returns the value of its last expression, or None.

    The communicator lives as long as the cell: MPI's own `COMM_WORLD` is always the whole pool.

    Parameters
    ----------
    names
        Put into the rank's memory before.
    only
        The ranks that run it, where not all do; `comm` is then theirs, `rank` stays what it is.
    """
    _names.update(names or {})
    rank, comm = context.rank, context.comm
    if only:
        if rank not in only:
            return None
        group = comm.Get_group()
        comm = comm.Create_group(group.Incl(sorted(only)))
    linecache.cache[FILENAME] = (len(source), None, source.splitlines(keepends=True), FILENAME)  # for tracebacks
    _names.update(comm=comm, rank=rank, size=comm.Get_size())
    body = ast.parse(source, FILENAME)
    last = body.body[-1] if body.body and isinstance(body.body[-1], ast.Expr) else None
    if last is not None:
        body.body.pop()
    exec(compile(body, FILENAME, "exec"), _names)
    return None if last is None else eval(compile(ast.Expression(last.value), FILENAME, "eval"), _names)


def push_names(context: Context, names: Mapping[str, Any]) -> None:
    """Put names into this rank's memory, where cells find them."""
    _names.update(names)


def pull_name(context: Context, name: str) -> Any:
    """The value of a name in this rank's memory.

    Raises
    ------
    InputError
        When it has none of that name.
    """
    if name not in _names:
        raise InputError(f"rank {context.rank} has no name {name}: set it in a ranks cell, or push it")
    return _names[name]
