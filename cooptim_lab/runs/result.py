"""What a run leaves: figures, scores and one trained network.

Made on a rank, read in the kernel. The network travels as bytes and is opened on first use, so that looking at a table
never imports torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


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
    network_bytes: bytes = field(repr=False)
    """The network, and the subnets it was fused from (or none), pickled together: what they share is kept once."""

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
        }
