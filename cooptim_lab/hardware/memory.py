"""How much memory this process may have: the host's, what the cgroups leave of it, and the shared part."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from .cgroups import memory_limits
from .readings import KIB, ROOT, least, number, text


def find_memory(root: Path, groups: Iterable[Path] | None = None) -> tuple[int | None, int | None, int | None]:
    """(total, limit, available) bytes: the host's, the tightest of the cgroups', and what both leave now.

    `groups`: see `cgroups`.
    """
    total, available = _host_memory(root)
    limits = list(memory_limits(root, groups))
    left = (max(0, limit - used) for limit, used in limits)
    return total, least(*(limit for limit, _ in limits)), least(available, *left)


def _host_memory(root: Path) -> tuple[int | None, int | None]:
    """(total, available) bytes of the host, from /proc/meminfo where there is one, else from psutil."""
    lines = (line.partition(":") for line in (text(root / "proc/meminfo") or "").splitlines())
    kib = {name: number(value.removesuffix("kB")) for name, _, value in lines}
    total, available = (None if size is None else size * KIB for size in map(kib.get, ("MemTotal", "MemAvailable")))
    if total is None and root == ROOT:
        import psutil

        host = psutil.virtual_memory()
        return host.total, host.available
    return total, available


def find_shared_memory(root: Path) -> tuple[int | None, int | None]:
    """(total, free) bytes of the shared memory that MPI ranks and data loaders talk through."""
    try:
        disk = shutil.disk_usage(root / "dev/shm")
    except OSError:
        return None, None
    return disk.total, disk.free
