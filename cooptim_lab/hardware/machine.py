"""`detect` puts together what this process may really use, and says what in it will surprise.

Each reading has a module of its own; this one measures nothing and renders nothing (that is `describe`).
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from . import chip, cpus
from .cgroups import quota
from .gpus import Gpu, find_gpus
from .libraries import Library, Torch, find_libraries, find_torch
from .memory import find_memory, find_shared_memory
from .mpi import Mpi, find_mpi, mpi_wheels
from .readings import GIB, MIB, ROOT, least, sysctl


@dataclass(frozen=True)
class Hardware:
    """What this process may use. Sizes are in bytes, CPUs are logical ones; None means unknown (for a limit: none set).

    `quota` is the CPU time the cgroups allow, in CPUs; `memory_available` already respects the cgroups' limit;
    `gpus` is empty where there is no NVIDIA driver and None where the driver does not answer. `dataclasses.asdict`
    gives JSON values.
    """

    host: str
    system: str
    architecture: str
    python: str
    cpu: str | None
    cores_host: int | None
    cores_physical: int | None
    affinity: int | None
    quota: float | None
    memory_total: int | None
    memory_limit: int | None
    memory_available: int | None
    shm_total: int | None
    shm_free: int | None
    simd: tuple[str, ...] | None
    bf16: bool | None
    amx: bool | None
    caches: tuple[chip.Cache, ...] | None
    gpus: tuple[Gpu, ...] | None
    mpi: Mpi
    libraries: tuple[Library, ...]
    torch: Torch
    warnings: tuple[str, ...] = ()

    @property
    def cores(self) -> float | None:
        """CPUs this process may use, as a fraction where a quota cuts one: min(affinity, quota)."""
        return cpus.usable(self.affinity, self.cores_host, self.quota)

    @property
    def workers(self) -> int:
        """How many workers can truly run at once: `cores` rounded down, at least 1."""
        return cpus.whole(self.cores)

    @property
    def memory(self) -> int | None:
        """Bytes of memory this process could have if nobody else used any: min(memory_total, memory_limit)."""
        return least(self.memory_total, self.memory_limit)


def detect(root: Path = ROOT) -> Hardware:
    """Read what this process may use, in milliseconds.

    The first call also imports numpy (about 0.1 s) if nobody has: training loads it anyway, and only a loaded BLAS can
    tell how many threads it would use.
    """
    first_cpu, answers = chip.first_cpu(root), sysctl(root)
    simd = chip.vector_units(first_cpu, answers)
    affinity = cpus.affinity()
    memory_total, memory_limit, memory_available = find_memory(root)
    shm_total, shm_free = find_shared_memory(root)
    hardware = Hardware(
        host=platform.node(),
        system=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        python=platform.python_version(),
        cpu=chip.cpu_name(first_cpu, answers),
        cores_host=cpus.cores_host(root),
        cores_physical=cpus.cores_physical(root, answers),
        affinity=None if affinity is None else len(affinity),
        quota=quota(root),
        memory_total=memory_total,
        memory_limit=memory_limit,
        memory_available=memory_available,
        shm_total=shm_total,
        shm_free=shm_free,
        simd=simd,
        bf16=chip.has_bf16(simd),
        amx=chip.has_amx(simd),
        caches=chip.find_caches(root, affinity, answers),
        gpus=find_gpus(),
        mpi=find_mpi(),
        libraries=find_libraries(),
        torch=find_torch(),
    )
    return replace(hardware, warnings=tuple(surprises(hardware)))


def surprises(hardware: Hardware) -> Iterator[str]:
    """One line per thing that will surprise: what is so, and what follows."""
    yield from _core_warnings(hardware)
    if hardware.shm_free is not None and hardware.shm_free < 128 * MIB:
        free = hardware.shm_free // MIB
        yield f"/dev/shm has {free} MiB free: MPI ranks and DataLoader workers share data there; use few of them"
    if hardware.memory is not None and hardware.memory < GIB:
        limit = hardware.memory // MIB
        yield f"only {limit} MiB of memory: importing torch takes about 240 MiB of it in each process; keep workers few"
    if hardware.mpi.mpiexec is None:
        yield "mpiexec not found: pip install mpich, or load your cluster's MPI module"
    elif len(wheels := mpi_wheels()) > 1:
        yield f"{' and '.join(wheels)} are installed side by side and overwrite each other's mpiexec: keep one"


def _core_warnings(hardware: Hardware) -> Iterator[str]:
    host, physical, affinity, quota = hardware.cores_host, hardware.cores_physical, hardware.affinity, hardware.quota
    if quota is not None and quota < 1:
        yield f"the CPU quota is {quota:.2g} of a core: workers take turns, so more of them cannot be faster here"
    elif quota is not None and affinity is not None and quota < affinity:
        yield f"the CPU quota is {quota:.3g} cores though {affinity} are in sight: further threads only wait"
    if affinity is not None and host is not None and affinity < host:
        yield f"this process may run on {affinity} of the host's {host} cores: count on those only"
    if affinity is not None and physical is not None and affinity > physical:
        yield f"{affinity} logical cores share {physical} physical ones: expect less than {affinity} times one's speed"
