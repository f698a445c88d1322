"""How many CPUs there are, and how many of them this process may use. What one of them can do is for `chip`.

This is the one place that knows how many CPUs are allowed: the affinity and the cgroup quota, never `os.cpu_count()`
alone, which in a container or under a batch system counts the host's.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from .cgroups import quota
from .readings import ROOT, cpu_list, least, number, text


def allowed_cpus(root: Path = ROOT) -> int:
    """How many CPUs this process may keep busy: max(1, floor(min(affinity, cgroup quota))). A few small file reads."""
    allowed = affinity()
    return whole(usable(None if allowed is None else len(allowed), cores_host(root), quota(root)))


def usable(affinity: int | None, host: int | None, quota: float | None) -> float | None:
    """CPUs, as a fraction where a quota cuts one: min(affinity, quota), with the host's where affinity is unknown."""
    return least(host if affinity is None else affinity, quota)


def whole(cores: float | None) -> int:
    """Workers that can truly run at once on so many cores: rounded down, at least 1."""
    return 1 if cores is None else max(1, math.floor(cores))


def affinity() -> set[int] | None:
    """The CPUs the scheduler lets this process run on (cpusets included); None where the system cannot tell (macOS)."""
    if sys.platform != "linux":
        return None
    try:
        return os.sched_getaffinity(0)
    except OSError:
        return None


def cores_host(root: Path) -> int | None:
    """The host's logical CPUs."""
    return cpu_list(text(root / "sys/devices/system/cpu/online")) or os.cpu_count()


def cores_physical(root: Path, sysctl: dict[str, str]) -> int | None:
    """Hyper-threads of one core carry the same list of siblings, so the distinct lists are the cores."""
    cpus = root / "sys/devices/system/cpu"
    for name in ("core_cpus_list", "thread_siblings_list"):  # the second is what kernels before 5.3 call it
        cores = {text(path) for path in cpus.glob(f"cpu[0-9]*/topology/{name}")} - {None, ""}
        if cores:
            return len(cores)
    return number(sysctl.get("hw.physicalcpu"))
