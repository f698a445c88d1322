"""The numerical libraries of this process: BLAS, OpenMP, torch. Never imports torch: it reports what is loaded."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from .readings import installed_version


@dataclass(frozen=True)
class Library:
    """A BLAS or OpenMP library (`kind` "blas" or "openmp") loaded in this process, and the threads it would use."""

    kind: str
    name: str
    version: str | None
    threads: int | None


@dataclass(frozen=True)
class Torch:
    """PyTorch: the installed `version`; the other fields are None until something else has imported torch.

    `build` is "cpu", "cuda 12.8" or "rocm 6.2"; `kernels` the vector instructions its CPU kernels were chosen for;
    `capabilities` what its own CPU probe found; `mps` whether Apple's GPU can be used.
    """

    version: str | None
    threads: int | None = None
    build: str | None = None
    kernels: str | None = None
    capabilities: tuple[str, ...] | None = None
    mps: bool | None = None


def find_libraries() -> tuple[Library, ...]:
    import numpy  # noqa: F401 - loads its BLAS: threadpoolctl sees only what is loaded
    from threadpoolctl import threadpool_info

    return tuple(
        Library(
            kind=found["user_api"],
            name=found["prefix"] if found["user_api"] == "openmp" else found["internal_api"],  # libgomp says more
            version=found["version"],
            threads=found["num_threads"],
        )
        for found in threadpool_info()
    )


def find_torch() -> Torch:
    version, torch = installed_version("torch"), sys.modules.get("torch")
    if torch is None:
        return Torch(version)
    try:
        return _loaded_torch(torch, version)
    except AttributeError:  # another thread is importing it just now
        return Torch(version)


def _loaded_torch(torch: Any, version: str | None) -> Torch:
    build = (("cuda", torch.version.cuda), ("rocm", torch.version.hip))
    probe = getattr(torch.cpu, "get_capabilities", None)  # not in every torch we allow
    return Torch(
        version=version,
        threads=torch.get_num_threads(),
        build=next((f"{name} {number}" for name, number in build if number), "cpu"),
        kernels=torch.backends.cpu.get_cpu_capability(),
        capabilities=None if probe is None else tuple(sorted(name for name, on in probe().items() if on is True)),
        mps=torch.backends.mps.is_available(),
    )
