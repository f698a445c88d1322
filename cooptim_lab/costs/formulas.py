"""What a step costs by each way of aggregating, by formulas: seconds from latency α, bandwidth β and what is computed.

The exchange is that of `collectives` over the links of `links`. Knows neither MPI nor torch.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InputError
from ..training.spec import UNDIVIDED
from .collectives import across, allreduce, broadcast, ring, star
from .links import Calibration, Compute, seconds

WAYS = ("server", "allreduce", "shared", "local")
LEAST, MOST = 4.0, 2.0**32
"""Bytes of a gradient: of one number, and of more than there will be."""
LOSS_BYTES = 8
"""Of one step's loss, which `local` adds up over the ranks."""


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """One way at one number of workers: what a step takes, predicted beside measured, in seconds."""

    way: str
    workers: int
    bytes: int
    """Of the gradient."""
    predicted: float
    exchange: float
    """The part of it that is not computing."""
    measured: float
    """Median of the rounds."""
    low: float
    """The fastest round."""
    high: float

    @property
    def off(self) -> float:
        """By which part of the measured time the prediction is too high, or (below 0) too low."""
        return self.predicted / self.measured - 1

    @classmethod
    def of(cls, way: str, workers: int, size: int, predicted: float, exchange: float, took: Sequence[float]) -> CostRow:
        """From the seconds per step of every round."""
        return cls(
            way=way, workers=workers, bytes=size, predicted=predicted, exchange=exchange,
            measured=statistics.median(took), low=min(took), high=max(took)
        )  # fmt: skip

    def summary(self) -> dict[str, Any]:
        """As a JSON object, with `off`."""
        return {**asdict(self), "off": self.off}

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any]) -> CostRow:
        """What `summary` wrote."""
        return cls(**{name: value for name, value in summary.items() if name != "off"})


def exchange_seconds(way: str, size: float, hosts: Sequence[int], on: Calibration, sync_every: int = 1) -> float:
    """Seconds per step that a way of aggregating spends on a gradient of `size` bytes.

    server:     `star` to rank 0, there the sum of M vectors (M n γ), broadcast of the weights. Its bytes grow with M.
    allreduce:  see `allreduce`.
    shared:     inside a host of m ranks, k of which own a part, two meetings and the sum of a part of all gradients,
                (m − 1) n γ / k; between hosts see `across`. Where the network is not divided, one meeting, after which
                every rank adds up all gradients: with what it has put there before, m n γ.
    ring:       see `ring`; no way of ours, the bound to compare with.
    local:      at every H-th step an allreduce of weights and one of H losses, and two passes over the weights (2 n γ).

    Parameters
    ----------
    hosts
        By rank, the number of its host.
    sync_every
        H, of local alone.
    """
    ranks = len(hosts)
    if ranks == 1:
        return 0.0
    match way:
        case "server":
            sums = ranks * size * on.gamma
            return seconds(star(ranks, size), hosts, on) + sums + seconds(broadcast(hosts, size), hosts, on)
        case "allreduce":
            return seconds(allreduce(ranks, size), hosts, on)
        case "shared":
            here, owners = max(hosts.count(host) for host in set(hosts)), _owners(hosts, size)
            if owners == 1 and len(set(hosts)) == 1:
                return on.meeting + here * size * on.gamma * max(1.0, here / on.cpus)
            inside = 2 * on.meeting + (here - 1) * size / owners * on.gamma * max(1.0, owners / on.cpus)
            return inside + seconds(across(hosts, size), hosts, on)
        case "ring":
            return seconds(ring(ranks, size), hosts, on)
        case "local":
            meeting = seconds(allreduce(ranks, size), hosts, on) + 2 * size * on.gamma
            return (meeting + seconds(allreduce(ranks, LOSS_BYTES * sync_every), hosts, on)) / sync_every
    raise InputError(f"way = {way!r}: there is a formula for {', '.join([*WAYS, 'ring'])}")


def step_seconds(
    way: str, size: float, hosts: Sequence[int], on: Calibration, compute: Compute, sync_every: int = 1
) -> float:
    """Seconds of one step: what is computed, then the exchange."""
    exchange = exchange_seconds(way, size, hosts, on, sync_every)
    return compute.gradient + update_seconds(way, size, hosts, compute) + exchange


def update_seconds(way: str, size: float, hosts: Sequence[int], compute: Compute) -> float:
    """Seconds that the optimizer's part takes of one step.

    With `server` the update is rank 0's alone; with `shared` each of the k ranks that own a part makes 1/k of it.
    """
    if way == "server":
        return compute.update
    together = compute.step - compute.gradient
    return together / _owners(hosts, size) if way == "shared" else together


def _owners(hosts: Sequence[int], size: float) -> int:
    """Ranks of a host that own a part of the weights, where they share memory: all of the smallest host.

    1 where a network so small is not divided, and each makes the whole step.
    """
    if len(set(hosts)) == 1 and size <= UNDIVIDED:
        return 1
    return min(hosts.count(host) for host in set(hosts))


def spread(ranks: int, hosts: Sequence[int]) -> list[int]:
    """Where so many ranks would be, spread like the ranks that there are: as many in a row on each host, as evenly."""
    count = len(set(hosts))
    return [rank * count // ranks for rank in range(ranks)] if count < ranks else list(range(ranks))


def crossing(hosts: Sequence[int], on: Calibration) -> float | None:
    """The bytes from which on the central server loses to a ring, by the formulas; None where it does not.

    A ring has more messages in a row, 2 (M − 1) to M − 1 + ⌈lg M⌉, and sends fewer bytes. Looked for from `LEAST` on:
    that is returned where the ring is faster for a single number.
    """
    low, high = LEAST, MOST

    def loses(size: float) -> bool:
        return exchange_seconds("server", size, hosts, on) > exchange_seconds("ring", size, hosts, on)

    if not loses(high):
        return None
    if loses(low):
        return low
    while high > 1.01 * low:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if loses(middle) else (middle, high)
    return high
