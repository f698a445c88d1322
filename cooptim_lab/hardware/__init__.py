"""What the hardware is and what it can do: `detect` reads what this process may use, instantly and without torch.

Public names are imported on first use: importing the package loads nothing, and counting CPUs loads only what counts
them. So no module here may bear a public name: once imported, it would stand where the function is looked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["Hardware", "allowed_cpus", "detect", "find_mpiexec", "find_program", "rows", "size", "summary"]

_HOME = {  # public name -> the module it lives in
    "Hardware": "machine",
    "allowed_cpus": "cpus",
    "detect": "machine",
    "find_mpiexec": "mpi",
    "find_program": "mpi",
    "rows": "describe",
    "size": "describe",
    "summary": "describe",
}

if TYPE_CHECKING:
    from .cpus import allowed_cpus
    from .describe import rows, size, summary
    from .machine import Hardware, detect
    from .mpi import find_mpiexec, find_program
else:  # where a type checker does not see it: to it, a misspelt name stays an error

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value  # the next use finds it without coming here
        return value


def __dir__() -> list[str]:
    return __all__
