"""What an exchange of gradients costs, by formulas: seconds from latency α, bandwidth β, and who sends what to whom.

The model is Hockney's, "The communication challenge for MPP", Parallel Computing 20, 1994: a message of n bytes takes
t = α + n/β. A collective call is rounds of messages that go at the same time; a round ends with its last. Which rounds
those are is MPICH's choice, as in Thakur, Rabenseifner & Gropp, "Optimization of collective communication operations in
MPICH", IJHPCA 19(1), 2005, and for calls that do not block in MPICH's own table (maint/tuning/coll/mpir/generic.json).
Another MPI may choose others.

Knows neither MPI nor torch: numbers in, numbers out. `calibration` measures what is put in.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InputError

WAYS = ("server", "allreduce", "local")
SHORT_REDUCTION = 2048
"""Bytes up to which MPICH adds whole vectors instead of parts of them."""
SHORT_BROADCAST, FEW_RANKS = 12288, 8
"""Below so many bytes, or so few ranks, MPICH sends a broadcast down a tree, whole."""
LEAST, MOST = 4.0, 2.0**32
"""Bytes of a gradient: of one number, and of more than there will be."""
LOSS_BYTES = 8
"""Of one step's loss, which `local` adds up over the ranks."""


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


# The collective calls, as rounds. Rank 0 is the root.


def gather(ranks: int, size: float) -> list[Round]:
    """`size` bytes of every rank to rank 0, up a binomial tree: ⌈lg M⌉ α + (M − 1) n/β on equal links.

    Thakur et al.; the last message carries half of all.
    """
    rounds, mask = [], 1
    while mask < ranks:
        senders = range(mask, ranks, 2 * mask)
        rounds.append(Round(tuple((r, r - mask, min(mask, ranks - r) * size) for r in senders)))
        mask *= 2
    return rounds


def star(ranks: int, size: float) -> list[Round]:
    """`size` bytes of every rank straight to rank 0, which takes them one after the other: (M − 1)(α + n/β)."""
    return [Round(((rank, 0, size),)) for rank in range(1, ranks)]


def broadcast(hosts: Sequence[int], size: float) -> list[Round]:
    """`size` bytes of rank 0 to all: first to one rank of every host, then inside the hosts.

    Each time down a binomial tree, ⌈lg M⌉ (α + n/β) on equal links; among 8 ranks or more, if it is not short, as
    parts that are then collected round a ring, (⌈lg M⌉ + M − 1) α + 2 (M − 1)/M n/β (van de Geijn). Thakur et al.;
    that hosts come first is MPICH's `smp` variant.
    """
    groups: dict[int, list[int]] = {}
    for rank, host in enumerate(hosts):
        groups.setdefault(host, []).append(rank)
    rounds = _broadcast([group[0] for group in groups.values()], size)
    inside = [_broadcast(group, size) for group in groups.values()]
    for step in range(max(map(len, inside))):
        rounds.append(Round(tuple(m for each in inside if step < len(each) for m in each[step].messages)))
    return rounds


def _broadcast(ranks: Sequence[int], size: float) -> list[Round]:
    """From the first of some ranks to all of them."""
    count = len(ranks)
    whole = size < SHORT_BROADCAST or count < FEW_RANKS
    rounds = []
    for one in reversed(gather(count, 1)):  # a broadcast's tree is a gather's, the other way
        messages = ((ranks[to], ranks[r], size if whole else part * size / count) for r, to, part in one.messages)
        rounds.append(Round(tuple(messages)))
    if not whole:
        around = tuple((ranks[i], ranks[(i + 1) % count], size / count) for i in range(count))
        rounds += [Round(around)] * (count - 1)
    return rounds


def allreduce(ranks: int, size: float) -> list[Round]:
    """The sum of `size` bytes of all ranks, to all. On M = 2^k equal links:

    up to 2 kB by recursive doubling,      lg M (α + n/β + n γ);
    else by Rabenseifner's algorithm,      2 lg M α + 2 (M − 1)/M n/β + (M − 1)/M n γ,

    which halves the vector with a neighbour, the half with the next but one, and so on, and then goes the way back.
    Of other M, M − 2^k ranks first give theirs to a neighbour and get the sum at the end. Thakur et al.; Rabenseifner,
    "Optimization of collective reduction operations", ICCS 2004.

    MPI_Iallreduce takes no notice of hosts (MPI_Allreduce does): with an uneven number of ranks on them, more bytes
    go between hosts than need to.
    """
    power = 1 << (ranks.bit_length() - 1)
    rest = ranks - power
    active = [*range(1, 2 * rest, 2), *range(2 * rest, ranks)]
    even = range(0, 2 * rest, 2)
    before = [Round(tuple((r, r + 1, size) for r in even), size)] if rest else []
    after = [Round(tuple((r + 1, r, size) for r in even))] if rest else []
    masks = [1 << k for k in range(power.bit_length() - 1)]
    if size <= SHORT_REDUCTION:
        return [*before, *(Round(_exchange(active, mask, size), size) for mask in masks), *after]
    halves = [_exchange(active, mask, size / (2 * mask)) for mask in masks]
    down = [Round(half, size / (2 * mask)) for half, mask in zip(halves, masks, strict=True)]
    return [*before, *down, *(Round(half) for half in reversed(halves)), *after]


def _exchange(ranks: Sequence[int], mask: int, size: float) -> tuple[Message, ...]:
    return tuple((ranks[i], ranks[i ^ mask], size) for i in range(len(ranks)))


def ring(ranks: int, size: float) -> list[Round]:
    """The same sum round a ring: 2 (M − 1) α + 2 (M − 1)/M n/β + (M − 1)/M n γ on equal links.

    No algorithm sends less than 2 (M − 1)/M n per rank, which stays below 2 n however many there are: Patarasuk &
    Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", JPDC 69(2), 2009.
    """
    if ranks == 1:
        return []
    around = tuple((r, (r + 1) % ranks, size / ranks) for r in range(ranks))
    return [Round(around, size / ranks)] * (ranks - 1) + [Round(around)] * (ranks - 1)


# The ways to aggregate.


def exchange_seconds(way: str, size: float, hosts: Sequence[int], on: Calibration, sync_every: int = 1) -> float:
    """Seconds per step that a way of aggregating spends on a gradient of `size` bytes.

    server:     `star` to rank 0, there the sum of M vectors (M n γ), broadcast of the weights. Its bytes grow with M.
    allreduce:  see `allreduce`.
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
        case "ring":
            return seconds(ring(ranks, size), hosts, on)
        case "local":
            meeting = seconds(allreduce(ranks, size), hosts, on) + 2 * size * on.gamma
            return (meeting + seconds(allreduce(ranks, LOSS_BYTES * sync_every), hosts, on)) / sync_every
    raise InputError(f"way = {way!r}: there is a formula for {', '.join([*WAYS, 'ring'])}")


def step_seconds(
    way: str, size: float, hosts: Sequence[int], on: Calibration, compute: Compute, sync_every: int = 1
) -> float:
    """Seconds of one step: what is computed, then the exchange. With `server` the update is rank 0's alone."""
    computing = compute.gradient + compute.update if way == "server" else compute.step
    return computing + exchange_seconds(way, size, hosts, on, sync_every)


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
