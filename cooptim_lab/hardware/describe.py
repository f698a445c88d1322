"""Puts what `detect` found into words: one line, or rows for a table. Reads nothing from the machine itself."""

from __future__ import annotations

from collections.abc import Iterable

from .chip import Cache
from .gpus import Gpu
from .libraries import Library
from .machine import Hardware
from .mpi import Mpi

UNKNOWN = "unknown"
WIDTH = 60
"""Characters that a table's third column has, so that a row stays one line in a notebook."""


def summary(hardware: Hardware) -> str:
    """One line: "2 cores of AMD EPYC (AVX2, bf16 no) · 23.5 GiB · no GPU · MPICH 5.0.2 · torch 2.13.0"."""
    return " · ".join(
        (
            f"{_cores(hardware)} of {_known(hardware.cpu or hardware.architecture)} ({_vector_units(hardware)})",
            "memory unknown" if hardware.memory is None else size(hardware.memory),
            _gpu_names(hardware.gpus),
            _mpi_name(hardware.mpi),
            f"torch {(hardware.torch.version or UNKNOWN).partition('+')[0]}",  # "+cpu" is a matter for the table
        )
    )


def rows(hardware: Hardware) -> list[tuple[str, str, str]]:
    """(what, value, what it means or where it was read) for a table."""
    return [*_cpu_rows(hardware), *_memory_rows(hardware), *_gpu_rows(hardware), *_software_rows(hardware)]


def size(count: int | None) -> str:
    """Bytes in binary units: "32 KiB", "23.5 GiB"."""
    if count is None:
        return UNKNOWN
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        del units[0]
    return f"{value:.3g} {units[0]}" if value < 1000 else f"{value:.0f} {units[0]}"


def _known(value: object) -> str:
    return UNKNOWN if value is None else str(value)


def _yes_no(value: bool | None) -> str:
    return UNKNOWN if value is None else "yes" if value else "no"


def _plain(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.4g}"


def _joined(values: Iterable[str]) -> str:
    return ", ".join(values) or "none"


def _shortened(text: str) -> str:
    """The end of it where it is too long: of a path, that says most."""
    return text if len(text) <= WIDTH else f"…{text[1 - WIDTH :]}"


def _cores(hardware: Hardware) -> str:
    """What may be used, and of how many if that is not all: "2 cores", "0.5 of 2 cores"."""
    allowed, host = hardware.cores, hardware.cores_host
    if allowed is None:
        return "an unknown number of cores"
    if host is not None and allowed < host:
        return f"{_plain(allowed)} of {host} {'core' if host == 1 else 'cores'}"
    return f"{_plain(allowed)} {'core' if allowed == 1 else 'cores'}"


def _vector_units(hardware: Hardware) -> str:
    """The widest vector unit, and whether bf16 is computed in hardware."""
    if hardware.simd is None:
        return "vector units unknown"
    names = {"amx_tile": "AMX", "avx512f": "AVX-512", "avx2": "AVX2", "avx": "AVX", "sve": "SVE", "neon": "NEON"}
    widest = next((name for flag, name in names.items() if flag in hardware.simd), "no wide vectors")
    return f"{widest}, bf16 {_yes_no(hardware.bf16)}"


def _gpu_names(gpus: tuple[Gpu, ...] | None) -> str:
    if gpus is None:
        return "GPU unknown"
    usable = [gpu.name or "GPU of unknown name" for gpu in gpus if gpu.visible is not False]
    if not usable:
        return "no GPU" if not gpus else "no GPU visible"
    counts = {name: usable.count(name) for name in usable}
    return " + ".join(name if count == 1 else f"{count} × {name}" for name, count in counts.items())


def _mpi_name(mpi: Mpi) -> str:
    if mpi.mpiexec is None:
        return "no MPI"
    return "MPI of unknown make" if mpi.name is None else f"{mpi.name} {mpi.version or ''}".rstrip()


def _cpu_rows(hardware: Hardware) -> list[tuple[str, str, str]]:
    quota = "none" if hardware.quota is None else f"{_plain(hardware.quota)} cores"
    units = UNKNOWN if hardware.simd is None else _joined(hardware.simd)
    room = f"min(affinity, quota); workers that can run at once: {hardware.workers}"
    return [
        ("host", hardware.host or UNKNOWN, hardware.system),
        ("CPU", _known(hardware.cpu), hardware.architecture),
        ("cores you may use", _plain(hardware.cores), room),
        ("affinity", _known(hardware.affinity), "logical cores the scheduler lets this process run on"),
        ("CPU quota", quota, "time the cgroups allow (containers, batch systems)"),
        ("host's cores", _known(hardware.cores_host), f"logical; physical: {_known(hardware.cores_physical)}"),
        ("vector units", units, "how many numbers one instruction works on"),
        ("bf16", _yes_no(hardware.bf16), "computed in hardware; if not, it saves memory, not time"),
        ("AMX", _yes_no(hardware.amx), "Intel's matrix units"),
        *(
            map(_cache_row, hardware.caches)
            if hardware.caches
            else [("caches", UNKNOWN, "the system does not show them")]
        ),
    ]


def _cache_row(cache: Cache) -> tuple[str, str, str]:
    sharing = {None: "how many share it is unknown", 1: "each logical core has its own"}
    means = sharing.get(cache.shared_by, f"shared by {cache.shared_by} logical cores")
    return f"{cache.name} cache", size(cache.size), means


def _memory_rows(hardware: Hardware) -> list[tuple[str, str, str]]:
    limit = "none" if hardware.memory_limit is None else size(hardware.memory_limit)
    return [
        ("memory", size(hardware.memory_total), "the host's"),
        ("memory limit", limit, "what the cgroups allow: beyond it the process is killed"),
        ("memory available", size(hardware.memory_available), "now, within the limit"),
        (
            "shared memory",
            size(hardware.shm_free),
            f"free of {size(hardware.shm_total)} in /dev/shm: MPI and DataLoader use it",
        ),
    ]


def _gpu_rows(hardware: Hardware) -> list[tuple[str, str, str]]:
    if not hardware.gpus:
        means = (
            "the NVIDIA library is there but does not answer"
            if hardware.gpus is None
            else "no NVIDIA driver, or no GPU"
        )
        return [("GPU", UNKNOWN if hardware.gpus is None else "none", means)]
    return [
        (
            f"GPU {index}",
            f"{_known(gpu.name)}, {size(gpu.memory)}",
            f"capability {_known(gpu.capability)}, driver {_known(gpu.driver)}, usable here: {_yes_no(gpu.visible)}",
        )
        for index, gpu in enumerate(hardware.gpus)
    ]


def _software_rows(hardware: Hardware) -> list[tuple[str, str, str]]:
    mpi, torch = hardware.mpi, hardware.torch
    loaded = torch.threads is not None
    means = (
        f"{torch.build} build, {torch.threads} threads, {torch.kernels} kernels"
        if loaded
        else "not loaded in this process"
    )
    apple = [("Apple GPU", _yes_no(torch.mps), "as torch sees it")] if torch.mps else []
    return [
        ("MPI", _mpi_name(mpi), _shortened(mpi.mpiexec or "no mpiexec in this environment or on PATH")),
        ("mpi4py", mpi.mpi4py or "not installed", "how Python speaks to MPI"),
        ("torch", torch.version or "not installed", means),
        *apple,
        *map(_library_row, hardware.libraries),
        ("Python", hardware.python, "this process's"),
    ]


def _library_row(library: Library) -> tuple[str, str, str]:
    kind = {"blas": "BLAS", "openmp": "OpenMP"}.get(library.kind, library.kind)
    threads = f"{_known(library.threads)} threads in this process; ranks set their own"
    return kind, f"{library.name} {library.version or ''}".rstrip(), threads
