"""How busy the machine is from moment to moment: each CPU that may be used, the quota, memory, GPUs, where ranks run.

It reads counters and takes differences; how often, and who looks at it, is not known here (`watching`). What cannot be
read is None, or missing: never zero.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .cgroups import Throttling, find_groups, quota, share_throttled, throttling
from .cpus import affinity
from .gpus import GpuLoad, GpuMeter
from .load import each_cpu
from .memory import find_memory
from .readings import ROOT, least, text

_LAST_CPU = 36
"""Of the words of /proc/PID/stat, counted from the state on: the CPU on which it ran last."""


@dataclass(frozen=True)
class Core:
    """One CPU that this process may use, between two readings."""

    number: int
    busy: float
    """The share of the time, 0 to 1, in which anybody's work ran on it."""
    stolen: float
    """The share in which it had work and the host ran another machine."""


@dataclass(frozen=True)
class Sample:
    """Between two readings. Unknown is None, or empty."""

    at: float
    """Seconds since the epoch, at its end."""
    seconds: float
    """That it is about."""
    cores: tuple[Core, ...] = ()
    quota: float | None = None
    """CPUs' worth of time that may be used, where a quota says so."""
    throttled: float | None = None
    """The share of the quota's periods in which it was used up; 0 where there is none."""
    memory: int | None = None
    """Bytes in use: of what limits it, the host or a cgroup."""
    memory_limit: int | None = None
    gpus: tuple[GpuLoad, ...] = ()
    ranks: Mapping[int, int] = field(default_factory=dict)
    """By rank, the CPU on which it ran last."""

    @property
    def stolen(self) -> float | None:
        """Of the time of all its cores, the share that the host gave to other machines."""
        return sum(core.stolen for core in self.cores) / len(self.cores) if self.cores else None

    def summary(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "cores": [[core.number, round(core.busy, 3), round(core.stolen, 3)] for core in self.cores],
            "quota": self.quota,
            "throttled": None if self.throttled is None else round(self.throttled, 3),
            "memory": self.memory,
            "memory_limit": self.memory_limit,
            "gpus": [gpu.summary() for gpu in self.gpus],
            "ranks": {str(rank): cpu for rank, cpu in self.ranks.items()},
        }


@dataclass(frozen=True)
class _Reading:
    at: float
    cpus: Mapping[int, tuple[float, float]]
    throttled: Throttling | None


class Sampler:
    """Takes samples; the first `take` is about the time since it was made, and all are of the cgroups found then.

    Parameters
    ----------
    ranks
        The processes whose CPUs are asked for, by rank.
    root
        Under which the files are; the real ones when left out.
    """

    def __init__(self, ranks: Callable[[], Mapping[int, int]] = dict, root: Path = ROOT) -> None:
        self._ranks, self._root = ranks, root
        self._gpus = GpuMeter()
        self._cpu_groups, self._memory_groups = (tuple(find_groups(root, name)) for name in ("cpu", "memory"))
        self._before = self._read()

    def take(self) -> Sample:
        """What happened since the last time."""
        before, self._before = self._before, self._read()
        now, seconds = self._before, self._before.at - before.at
        total, limit, available = find_memory(self._root, self._memory_groups)
        most = least(total, limit)
        return Sample(
            at=time.time(),
            seconds=seconds,
            cores=tuple(_cores(before.cpus, now.cpus, seconds)),
            quota=quota(self._root, self._cpu_groups),
            throttled=None if now.throttled is None else share_throttled(before.throttled, now.throttled),
            memory=None if most is None or available is None else max(0, most - available),
            memory_limit=most,
            gpus=self._gpus.read(),
            ranks=self._where_ranks_run(),
        )

    def close(self) -> None:
        """Let go of the GPUs' library."""
        self._gpus.close()

    def _read(self) -> _Reading:
        return _Reading(time.monotonic(), each_cpu(self._root, affinity()), throttling(self._root, self._cpu_groups))

    def _where_ranks_run(self) -> dict[int, int]:
        found = {}
        for rank, pid in self._ranks().items():
            words = (text(self._root / f"proc/{pid}/stat") or "").rpartition(")")[2].split()
            if len(words) > _LAST_CPU and words[_LAST_CPU].isdigit():
                found[rank] = int(words[_LAST_CPU])
        return found


def _cores(
    before: Mapping[int, tuple[float, float]], after: Mapping[int, tuple[float, float]], seconds: float
) -> list[Core]:
    """Of the CPUs that both readings know."""
    if seconds <= 0:
        return []
    found = []
    for number in sorted(before.keys() & after.keys()):
        busy, stolen = (
            min(1.0, max(0.0, (b - a) / seconds)) for a, b in zip(before[number], after[number], strict=True)
        )
        found.append(Core(number, busy, min(stolen, 1.0 - busy)))
    return found
