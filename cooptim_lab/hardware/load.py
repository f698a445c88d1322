"""What others take of the CPUs that this process may use, over a span of time: two readings and their difference.

Others are all processes but those that are named as one's own, and the host below a virtual machine (steal). It counts,
and must not know what is measured meanwhile: whether that still counts, the studies say.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from .cgroups import Throttling, quota, share_throttled, throttling
from .cpus import affinity, cores_host, usable
from .readings import ROOT, text

LEAST_SECONDS = 0.1
"""The kernel counts CPU time in ticks of 10 ms: over a shorter span a tick more or less is a disturbance."""
_BUSY, _STOLEN = (0, 1, 2, 5, 6), 7  # user, nice, system, irq, softirq; a guest's time is in user (proc(5))
_USER, _CHILDREN, _PARENT = slice(11, 13), slice(13, 15), 1  # of /proc/PID/stat, counted from the state on


@dataclass(frozen=True)
class Reading:
    """How far the counters were at a moment. Unknown is None."""

    at: float
    """Seconds, on a clock that only goes forwards."""
    cpus: int | None
    """How many CPUs it is about: those that the affinity allows."""
    room: float | None
    """CPUs' worth of time that may be used: less than `cpus` where a quota says so."""
    busy: float | None
    """Seconds in which any of these CPUs did something, since the system started."""
    stolen: float | None
    """Seconds in which one of them wanted to run and the host ran another machine."""
    own: Mapping[int, float]
    """Seconds of CPU that each of one's own processes has used, by its pid."""
    throttled: Throttling | None


@dataclass(frozen=True)
class Disturbance:
    """What was taken between two readings. Unknown is None."""

    seconds: float
    others: float | None
    """The share, 0 to 1, of the CPUs that one may use which others used."""
    stolen: float | None
    """The share of these CPUs' time that the host gave to other machines."""
    throttled: float | None
    """The share of its periods in which this process's cgroup had used up its quota; 0 where it has none."""
    throttled_seconds: float | None
    """For how long it stood still for that, over all CPUs."""


def read(alone: Collection[int] = (), families: Collection[int] = (), root: Path = ROOT) -> Reading:
    """How far the counters are now; a few file reads, and one for each process of the machine.

    Parameters
    ----------
    alone
        Processes whose own CPU time is not others'; their children's is.
    families
        Processes that count with all their children.
    """
    where = affinity()
    cores = cores_host(root) if where is None else len(where)
    busy, stolen = _counters(root, where)
    own = {**_own(root, alone), **_families(root, families)}
    room = usable(cores, cores, quota(root))
    return Reading(time.monotonic(), cores, room, busy, stolen, own, throttling(root))


def between(before: Reading, after: Reading) -> Disturbance:
    """What was taken from the first reading to the second."""
    seconds, cpus, room = after.at - before.at, after.cpus, after.room
    others = stolen = None
    if cpus and room and seconds >= LEAST_SECONDS:
        if before.busy is not None and after.busy is not None:
            # One that has begun since then counts whole; one that has ended is not known any more.
            own = sum(max(0.0, used - before.own.get(pid, 0.0)) for pid, used in after.own.items())
            used = max(0.0, after.busy - before.busy - own) / seconds
            # Where a quota leaves CPUs over, others may have those.
            others = min(1.0, max(0.0, used - (cpus - room)) / room)
        if before.stolen is not None and after.stolen is not None:
            stolen = min(1.0, max(0.0, after.stolen - before.stolen) / (seconds * cpus))
    return Disturbance(seconds, others, stolen, *_throttled(before.throttled, after.throttled))


def _throttled(before: Throttling | None, after: Throttling | None) -> tuple[float | None, float | None]:
    if before is None or after is None:
        return None, None
    return share_throttled(before, after), after.seconds - before.seconds


def each_cpu(root: Path = ROOT, where: Collection[int] | None = None) -> dict[int, tuple[float, float]]:
    """(busy, stolen) seconds since the system started, of each of these CPUs; of all, where it is not known which.

    Empty where one of them cannot be read.
    """
    if root == ROOT and sys.platform != "linux":
        return _each_elsewhere()
    tick, found = _tick(), dict[int, tuple[float, float]]()
    for line in (text(root / "proc/stat") or "").splitlines():
        name, *words = line.split()
        number = name.removeprefix("cpu")
        if name.startswith("cpu") and number.isdigit() and (where is None or int(number) in where):
            try:
                ticks = [int(word) for word in words]
                found[int(number)] = sum(ticks[i] for i in _BUSY) / tick, ticks[_STOLEN] / tick
            except (ValueError, IndexError):
                return {}
    return {} if where is not None and len(found) < len(where) else found


def _counters(root: Path, where: Collection[int] | None) -> tuple[float | None, float | None]:
    """(busy, stolen) seconds, summed over these CPUs; of all where it is not known which."""
    each = each_cpu(root, where).values()
    if not each:
        return None, None
    busy, stolen = map(sum, zip(*each, strict=True))
    is_told = root != ROOT or sys.platform == "linux"
    return busy, stolen if is_told else None


def _each_elsewhere() -> dict[int, tuple[float, float]]:
    """The same by psutil, where there is no /proc; nothing is known of steal there."""
    import psutil

    every = psutil.cpu_times(percpu=True)
    busy = [sum(getattr(one, name, 0.0) for name in ("user", "nice", "system")) for one in every]
    return {number: (seconds, 0.0) for number, seconds in enumerate(busy)}


def _own(root: Path, pids: Collection[int]) -> dict[int, float]:
    """CPU seconds of each of these processes alone."""
    if root == ROOT and sys.platform != "linux":
        return _own_elsewhere(pids)
    stats = {pid: _stat(root / "proc" / str(pid) / "stat") for pid in pids}
    return {pid: _seconds(stat[_USER]) for pid, stat in stats.items() if stat is not None}


def _own_elsewhere(pids: Collection[int]) -> dict[int, float]:
    import psutil

    found = {}
    for pid in pids:
        try:
            found[pid] = sum(psutil.Process(pid).cpu_times()[:2])
        except psutil.Error:
            continue
    return found


def _families(root: Path, pids: Collection[int]) -> dict[int, float]:
    """CPU seconds of each of these processes with its children, those that have ended too."""
    if not pids or (root == ROOT and sys.platform != "linux"):
        return _own_elsewhere(pids) if pids else {}
    stats = {int(path.parent.name): _stat(path) for path in (root / "proc").glob("[0-9]*/stat")}
    known = {pid: stat for pid, stat in stats.items() if stat is not None}
    found = dict.fromkeys((pid for pid in pids if pid in known), 0.0)
    for pid, stat in known.items():
        ancestor, seen = pid, set[int]()
        while ancestor not in found and ancestor in known and ancestor not in seen:
            seen.add(ancestor)
            ancestor = int(known[ancestor][_PARENT])
        if ancestor in found:
            found[ancestor] += _seconds(stat[_USER]) + _seconds(stat[_CHILDREN])
    return found


def _stat(path: Path) -> list[str] | None:
    """The words of a process's line, from its state on: its name, before that, may hold spaces and brackets."""
    words = (text(path) or "").rpartition(")")[2].split()
    is_whole = len(words) >= _CHILDREN.stop and all(word.isdigit() for word in words[_USER.start : _CHILDREN.stop])
    return words if is_whole and words[_PARENT].isdigit() else None


def _seconds(ticks: Collection[str]) -> float:
    return sum(map(int, ticks)) / _tick()


def _tick() -> int:
    return os.sysconf("SC_CLK_TCK")
