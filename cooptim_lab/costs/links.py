"""What joins ranks, and how long rounds of messages take on it.

The model is Hockney's, "The communication challenge for MPP", Parallel Computing 20, 1994: a message of n bytes takes
t = α + n/β. A collective call is rounds of messages that go at the same time; a round ends with its last.

Knows neither MPI nor torch: numbers in, numbers out. `calibration` measures what is put in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InputError


@dataclass(frozen=True)
class Link:
    """What joins two ranks."""

    alpha: float
    """Seconds that a message takes, however short."""
    beta: float
    """Bytes per second, one way."""
    both: float
    """Bytes per second each way while both ways are in use."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The figures of one pool, measured once."""

    local: Link | None
    """Between ranks of one host; None where there are no two."""
    between: Link | None
    """Between hosts, which all ranks of a host share; None where there is one host only."""
    meeting: float = 0.0
    """Seconds in which all ranks of a host meet in memory that they share."""
    gamma: float = 0.0
    """Seconds per byte that is added to another."""
    cpus: int = 1 << 10
    """That the ranks of a host share: where there are more ranks than the two that were measured, they take turns."""

    def summary(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any]) -> Calibration:
        """What `summary` wrote."""
        links = {name: Link(**summary[name]) if summary[name] else None for name in ("local", "between")}
        return cls(**{**summary, **links})


@dataclass(frozen=True)
class Compute:
    """What a rank computes in a step while nothing is sent, in seconds."""

    gradient: float
    """Forward and backward on its part of the batch, all ranks at the same time."""
    update: float
    """The optimizer's part on one rank, the others being idle."""
    step: float
    """Both, one after the other, all ranks at the same time."""


Message = tuple[int, int, float]
"""From a rank, to a rank, bytes."""


@dataclass(frozen=True)
class Round:
    """Messages that go at the same time, and bytes that each of their receivers then adds to its own."""

    messages: tuple[Message, ...]
    added: float = 0.0


def seconds(rounds: Sequence[Round], hosts: Sequence[int], on: Calibration) -> float:
    """How long rounds take.

    Inside a host every pair of ranks has a link of its own. What leaves a host, or comes to it, goes through one link
    that its ranks share: its bytes of a round add up, each way by itself.

    Parameters
    ----------
    hosts
        By rank, the number of its host.
    """
    return sum(_of_round(one, hosts, on) for one in rounds)


def _of_round(one: Round, hosts: Sequence[int], on: Calibration) -> float:
    pairs = {(source, to) for source, to, _ in one.messages}
    took = [0.0]
    out: dict[int, float] = {}
    into: dict[int, float] = {}
    crowd = max(hosts.count(host) for host in set(hosts))  # ranks that share a host's CPUs
    turns = max(1.0, crowd / max(2, on.cpus))
    for source, to, size in one.messages:
        here, there = hosts[source], hosts[to]
        if here != there:
            out[here] = out.get(here, 0) + size
            into[there] = into.get(there, 0) + size
            continue
        link = _known(on.local, "inside a host")
        rate = link.both if (to, source) in pairs else link.beta
        took.append(turns * (link.alpha + size / rate))
    for host in out.keys() | into.keys():
        link = _known(on.between, "between hosts")
        is_both = out.get(host, 0) and into.get(host, 0)
        took.append(link.alpha + max(out.get(host, 0), into.get(host, 0)) / (link.both if is_both else link.beta))
    return max(took) + on.gamma * one.added * max(1.0, crowd / on.cpus)


def _known(link: Link | None, where: str) -> Link:
    if link is None:
        raise InputError(f"nothing was measured {where}: calibrate with two ranks there")
    return link
