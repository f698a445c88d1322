"""What a run leaves: figures, scores and one trained network.

Made on a rank, read in the kernel. The network travels as bytes and is opened on first use, so that looking at a table
never imports torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


WAITS_MUCH = 0.1
"""A run whose threads were ready and did not run for a larger share of its time was disturbed. Measured on two CPUs
where nobody else was: 0.00 to 0.05, and 0.09 once, of a run of a tenth of a second; beside two busy loops and more,
0.41 to 0.87."""
USED_UP = 0.8
"""Of a CPU quota: who uses more of it is held back by it, as it is given out in periods of 0.1 s."""
SLICE = 0.02
"""Seconds that are taken off before: a turn or two on the scheduler, which short runs have to spare for anybody."""
FASTER = 0.8
"""Fewer threads that need no more than this part of the time are faster; a smaller gain is noise."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One training, from start to result."""

    way: str
    """baseline, subnets or sharded."""
    task: str
    options: Mapping[str, Any]
    state: str
    """done, or stopped: then it is what was trained until then."""
    workers: int
    threads: int
    """Threads of each worker."""
    seconds: float
    """Spent training (the slowest rank's clock): steps, communication, fusion; without preparing and scoring."""
    steps: int
    loss: float
    """On the held-out rows."""
    metric: float
    """On the held-out rows; accuracy lies in 0..1."""
    metric_name: str
    parameters: int
    engine: str = ""
    """How it was computed: the stacked engine, or the way of aggregating."""
    subnet_scores: tuple[float, ...] = ()
    """The metric of every subnet by itself."""
    diversity: float | None = None
    """By how much their mean is better than they are on the average, in loss (see `subnets.fuse.diversity`)."""
    breakdown: tuple[Mapping[str, Any], ...] = ()
    """Of a sharded run, for each rank: rank, host, steps; seconds of compute, communication and waiting; bytes sent. If
    it was resumed, since then."""
    staleness: tuple[float, int] | None = None
    """Mean and most of how many steps the weights of a gradient were old; None where that is always 0."""
    ran: tuple[Mapping[str, Any], ...] = ()
    """Of each rank, in order, seconds from the task's opening to the scores: elapsed; cpu, of all its threads; waiting:
    that a thread was ready and did not run, of the one that waited longest; and quota: the CPUs' worth it may use. None
    where the system does not tell, or sets none."""
    tried: tuple[tuple[int, float], ...] = ()
    """Of the network as it is, before the clock: (threads, seconds a step), its own number of threads first; empty
    where none was tried."""
    path: tuple[tuple[int, float, float, float], ...] = ()
    """Of every epoch its number, the seconds of training until its end, held-out loss and metric then."""
    network_bytes: bytes = field(repr=False)
    """The network, and the subnets it was fused from (or none), pickled together: what they share is kept once."""

    @property
    def ready_waiting(self) -> float | None:
        """See the function of that name."""
        return ready_waiting(self.ran)

    @property
    def network(self) -> nn.Module:
        """The trained network: one `nn.Module`, in evaluation mode."""
        return self._networks[0]

    @property
    def subnets(self) -> tuple[nn.Module, ...]:
        """The trained sub-networks; empty for the other ways."""
        return self._networks[1]

    @cached_property
    def _networks(self) -> tuple[nn.Module, tuple[nn.Module, ...]]:
        import cloudpickle

        return cloudpickle.loads(self.network_bytes)

    def summary(self) -> dict[str, Any]:
        """Everything but the network, as a JSON object."""
        names = [item.name for item in dataclasses.fields(self) if item.name != "network_bytes"]
        return {
            **{name: getattr(self, name) for name in names},
            "subnet_scores": list(self.subnet_scores),
            "breakdown": list(self.breakdown),
            "ran": list(self.ran),
            "tried": [list(pair) for pair in self.tried],
            "path": [list(point) for point in self.path],
        }


def ready_waiting(ran: Sequence[Mapping[str, Any]]) -> float | None:
    """The share of its time that the rank which waited longest was ready and did not run; None where unknown.

    And where the ranks have used up their CPU quota: then it is this that they waited for.
    """
    used = sum(one["cpu"] / one["elapsed"] for one in ran if one["elapsed"] > 0)
    if any(one.get("quota") is not None and used > USED_UP * one["quota"] for one in ran):
        return None
    known = [one for one in ran if one["waiting"] is not None and one["elapsed"] > 0]
    shares = (max(0.0, one["waiting"] - SLICE) / one["elapsed"] for one in known)
    return max((min(1.0, share) for share in shares), default=None)


def slow_by_threads(tried: Sequence[tuple[int, float]]) -> str:
    """That the network as it is would be faster with fewer threads; empty where it would not be.

    Torch's threads wait for each other by spinning, in every operation.
    """
    if not tried:
        return ""
    (threads, seconds), (best, least) = tried[0], min(tried, key=lambda pair: pair[1])
    if least > FASTER * seconds:
        return ""
    with_best = f"with {best} thread{'s' * (best > 1)} {_milliseconds(least)}"
    return f"the network as it is, with torch's default {threads} threads: {_milliseconds(seconds)} a step; {with_best}"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.0f} ms" if seconds > 0.01 else f"{1e3 * seconds:.2g} ms"
