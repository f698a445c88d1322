"""A notebook cell on every rank: single program, multiple data.

Cells share the module `__main__` of their rank, as a program's lines do: names persist between cells, in the rank's own
memory, and go when the ranks do; classes and functions are found there by whoever opens what another rank has pickled.
`comm`, `rank` and `size` are set anew for every cell; mpi4py programs that use `MPI.COMM_WORLD` work as they are.
"""

from __future__ import annotations
import __future__

import ast
import asyncio
import inspect
import linecache
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..comm.context import Context
from ..errors import InputError
from .main_module import Main
from .values import Value

FILENAME = "<ranks cell>"
FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
FUTURES = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)

_main = Main()


def take_main() -> None:
    """From now on this process's `__main__` is the cells' namespace."""
    sys.modules["__main__"] = _main
    sys.argv[:] = [FILENAME]


def check_source(source: str) -> None:
    """Refuse a cell that is empty or not Python, before it travels.

    Raises
    ------
    InputError
    """
    try:
        body = ast.parse(source, FILENAME).body
        compile(source, FILENAME, "exec", FLAGS, dont_inherit=True)
    except SyntaxError as error:
        raise InputError(f"line {error.lineno} of the body is not Python: {error.msg}") from None
    if not body:
        raise InputError("the body is empty: write what every rank is to run, e.g. print(rank, size)")


def run_cell(context: Context, source: str, names: Mapping[str, Any] | None = None, only: Sequence[int] = ()) -> Any:
    """Execute a cell's source on this rank; returns the value of its last expression, or None.

    Parameters
    ----------
    names
        Put into the rank's memory before.
    only
        The ranks that run it, where not all do; `comm` is then theirs, `rank` stays what it is, and `MPI.COMM_WORLD`
        is all ranks'.
    """
    known = vars(_main)
    known.update(names or {})
    rank, comm = context.rank, context.comm
    if only:
        if rank not in only:
            return None
        group = comm.Get_group()
        comm = comm.Create_group(group.Incl(sorted(only)))
    linecache.cache[FILENAME] = (len(source), None, source.splitlines(keepends=True), FILENAME)  # for tracebacks
    known.update(comm=comm, rank=rank, size=comm.Get_size())
    try:
        return Value(_execute(source, known))
    except SystemExit as end:
        if end.code in (None, 0):
            return None
        raise


def run_file(context: Context, source: str, path: str, arguments: Sequence[str] = ()) -> None:
    """Execute a program from disk on this rank, as mpiexec would start it, but in this process.

    It finds a `__main__` of its own, nothing of what cells have named, and modules that earlier ones have imported.
    """
    program = types.ModuleType("__main__")
    program.__file__ = path
    sys.modules["__main__"] = program
    sys.argv[:] = [path, *arguments]
    sys.path.insert(0, str(Path(path).parent))
    try:
        exec(compile(source, path, "exec", dont_inherit=True), vars(program))
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
    finally:
        sys.modules["__main__"] = _main


def _execute(source: str, names: dict[str, Any]) -> Any:
    """Run it, and give what its last expression is worth; where there is an `await`, in one event loop."""
    body = ast.parse(source, FILENAME)
    _main.remember(ast.parse(source, FILENAME))
    last = body.body.pop() if body.body and isinstance(body.body[-1], ast.Expr) else None
    codes = [compile(body, FILENAME, "exec", FLAGS, dont_inherit=True)]
    if isinstance(last, ast.Expr):
        flags = FLAGS | (codes[0].co_flags & FUTURES)
        codes.append(compile(ast.Expression(last.value), FILENAME, "eval", flags, dont_inherit=True))
    if not any(code.co_flags & inspect.CO_COROUTINE for code in codes):
        return [eval(code, names) for code in codes][-1]
    with asyncio.Runner() as runner:
        return [_finish(runner, eval(code, names), code) for code in codes][-1]


def _finish(runner: asyncio.Runner, value: Any, code: types.CodeType) -> Any:
    return runner.run(value) if code.co_flags & inspect.CO_COROUTINE else value


def push_names(context: Context, names: Mapping[str, Any]) -> None:
    """Put names into this rank's memory, where cells find them."""
    vars(_main).update(names)


def pull_name(context: Context, name: str) -> Any:
    """The value of a name in this rank's memory.

    Raises
    ------
    InputError
        When it has none of that name.
    """
    if name not in vars(_main):
        raise InputError(f"rank {context.rank} has no name {name}: set it in a ranks cell, or push it")
    return vars(_main)[name]
