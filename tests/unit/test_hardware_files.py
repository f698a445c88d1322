"""Detection on machines built from files: their CPUs, cgroups and memory, and what is unknown without files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from cooptim_lab.hardware import allowed_cpus, detect, summary
from cooptim_lab.hardware.chip import Cache
from cooptim_lab.hardware.readings import GIB, MIB

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
    monkeypatch.setattr("cooptim_lab.hardware.cpus.affinity", lambda: set(range(8)))


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
    monkeypatch.setattr("cooptim_lab.hardware.cpus.affinity", lambda: None)
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
    monkeypatch.setattr("cooptim_lab.hardware.machine.sysctl", lambda root: answers)
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
