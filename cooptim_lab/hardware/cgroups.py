"""The limits that containers and batch systems set: this process's cgroups, version 1 and version 2.

Knows where the limits are written, not what follows from them: that is for `cpus` and `memory`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .readings import ROOT, least, number, text

_NO_LIMIT = 1 << 60  # bytes; cgroup v1 writes "no limit" as 2**63 rounded down to a page


def quota(root: Path, groups: Iterable[Path] | None = None) -> float | None:
    """CPUs' worth of time per period that the tightest of this process's cgroups allows; None where none limits it.

    `groups`, here as below, are what `find_groups` has found before: whoever asks twice a second need not look again.
    """
    return least(*(_group_quota(group) for group in groups or find_groups(root, "cpu")))


def _group_quota(group: Path) -> float | None:
    v1 = f"{text(group / 'cpu.cfs_quota_us')} {text(group / 'cpu.cfs_period_us')}"
    try:
        quota, period = (int(word) for word in (text(group / "cpu.max") or v1).split())
    except ValueError:  # "max", no such file, or something we cannot read
        return None
    return quota / period if quota > 0 and period > 0 else None  # v1 writes "no limit" as -1


@dataclass(frozen=True)
class Throttling:
    """How often, since it was made, the cgroup had used up its quota."""

    periods: int
    throttled: int
    """Of these periods."""
    seconds: float
    """For how long its processes stood still then, over all CPUs."""


def throttling(root: Path, groups: Iterable[Path] | None = None) -> Throttling | None:
    """Of the one of this process's cgroups that was throttled longest; None where nobody counts."""
    groups = groups or find_groups(root, "cpu")
    every = [found for group in groups if (found := _group_throttling(group)) is not None]
    return max(every, key=lambda one: one.seconds, default=None)


def share_throttled(before: Throttling | None, after: Throttling | None) -> float:
    """Of the periods between two readings, those in which the quota was used up; 0 where none is known of."""
    if before is None or after is None or after.periods <= before.periods:
        return 0.0
    return max(0, after.throttled - before.throttled) / (after.periods - before.periods)


def _group_throttling(group: Path) -> Throttling | None:
    lines = (line.partition(" ") for line in (text(group / "cpu.stat") or "").splitlines())
    stat = {name: number(value) for name, _, value in lines}
    periods, throttled, v2, v1 = map(stat.get, ("nr_periods", "nr_throttled", "throttled_usec", "throttled_time"))
    if periods is None or throttled is None or (v1 is None and v2 is None):
        return None
    return Throttling(periods, throttled, (v2 or 0) / 1e6 if v1 is None else v1 / 1e9)


def memory_limits(root: Path, groups: Iterable[Path] | None = None) -> Iterator[tuple[int, int]]:
    """(limit, used) in bytes of each of this process's cgroups that has a limit."""
    for group in groups or find_groups(root, "memory"):
        limit = number(text(group / "memory.max") or text(group / "memory.limit_in_bytes"))
        if limit is not None and limit < _NO_LIMIT:
            yield limit, _group_memory_used(group)


def _group_memory_used(group: Path) -> int:
    """Bytes that cannot be given back: usage less the file pages not in use, which the kernel drops when asked.

    0 where the usage cannot be read: the limit alone is then what caps the memory available.
    """
    used = number(text(group / "memory.current") or text(group / "memory.usage_in_bytes"))
    lines = (line.partition(" ") for line in (text(group / "memory.stat") or "").splitlines())
    stat = {name: value for name, _, value in lines}
    idle = number(stat.get("total_inactive_file", stat.get("inactive_file")))  # v1's plain name leaves out children
    return max(0, (used or 0) - (idle or 0))


def oom_kills(root: Path = ROOT) -> int | None:
    """How many processes of this process's cgroup were ended for want of memory so far; None where nobody counts."""
    for group in find_groups(root, "memory"):
        told = text(group / "memory.events") or text(group / "memory.oom_control") or ""
        for line in told.splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return number(count)
    return None


def find_groups(root: Path, controller: str) -> Iterator[Path]:
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
    fields = [line.split(":", 2) for line in (text(root / "proc/self/cgroup") or "").splitlines()]
    return {name: line[2] for line in fields if len(line) == 3 for name in line[1].split(",")}


def _hierarchies(root: Path) -> list[tuple[set[str], str, Path]]:
    """(controllers, the cgroup at the top, where it is mounted); version 2's controllers are the empty name."""
    found = []
    for line in (text(root / "proc/self/mountinfo") or "").splitlines():
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
