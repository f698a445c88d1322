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
    """Mean squared distance of the subnets' outputs from their mean."""
    network_bytes: bytes = field(repr=False)

    @cached_property
    def network(self) -> nn.Module:
        """The trained network: one `nn.Module`, in evaluation mode."""
        import cloudpickle

        return cloudpickle.loads(self.network_bytes)

    def summary(self) -> dict[str, Any]:
        """Everything but the network, as a JSON object."""
        names = [item.name for item in dataclasses.fields(self) if item.name != "network_bytes"]
        return {**{name: getattr(self, name) for name in names}, "subnet_scores": list(self.subnet_scores)}
