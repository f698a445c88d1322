"""Steps of the kit's own ways on a machine that is not here, from what was measured of them on the one that is.

What is computed is the same: a rank's part of the batch is measured in several sizes, and what lies between is
interpolated. What is sent follows from the formulas of `costs`, over this machine's links inside a host and over one
that is given between hosts. More workers than a host has cores take turns. A step that all make together ends with its
slowest: how far single steps are apart is measured too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ..costs.formulas import exchange_seconds, update_seconds
from ..costs.links import Calibration, Compute, Link
from ..errors import InputError
from .step import Step, expected_largest
from .systems import QUANTILE

SUBNETS, SERVER, SHARED, ASYNC = "subnets", "server", "shared", "async"
WAYS = (SUBNETS, SERVER, "allreduce", SHARED, "local", ASYNC)
"""What can be simulated; `as it is` is measured."""
MISSED, MISSED_IN_TURNS = 0.09, 0.18
"""Standard deviation of log(measured / predicted) on machines that were both: two hosts; ranks that take turns."""
REACHED = (0.5, 0.75, 1.0)
"""Of the bandwidth that is written on a link: what a protocol reaches at worst, as is taken, at best."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A task's steps on this machine, in seconds.

    Attributes
    ----------
    batch
        Rows of a step, over all workers.
    size
        Bytes of the gradient.
    alone
        A step of the network as it is, on the whole batch.
    gradients
        By rows of a rank's part: forward and backward, while other ranks do the same.
    update
        The optimizer's part.
    subnets
        By N: a step of one of N sub-networks, on the whole batch.
    apart
        Single steps over their median.
    crowding
        How many times longer all takes, per worker, where workers take turns on a core: caches are shared then.
    late
        By way, seconds that its exchange takes more where two workers share each core: who is sent to may not run.
    spread
        Of the rounds, relative: one standard deviation.
    links
        Of ranks on this host.
    """

    batch: int
    size: int
    alone: float
    gradients: Mapping[int, float]
    update: float
    subnets: Mapping[int, float]
    apart: tuple[float, ...]
    spread: float
    links: Calibration
    crowding: float = 1.0
    late: Mapping[str, float] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any]) -> Figures:
        """What `summary` wrote; JSON has made texts of the numbers that were keys."""
        by_number = {name: {int(n): s for n, s in summary[name].items()} for name in ("gradients", "subnets")}
        links, apart = Calibration.from_summary(summary["links"]), tuple(summary["apart"])
        return cls(**{**summary, **by_number, "links": links, "apart": apart})


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What is asked about: hosts alike, each with so many cores, and what joins them.

    Raises
    ------
    InputError
        For less than one host or core, a bandwidth or a latency below 0.
    """

    hosts: int = 1
    cores: int = 1
    bandwidth: float = 0.0
    """Of a host's link to the others, in bytes per second, as it is written on it; 0: as it was measured."""
    latency: float = 5e-5
    """Of a message between hosts, in seconds."""

    def __post_init__(self) -> None:
        for name in ("hosts", "cores"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}: give 1 or more")
        for name in ("bandwidth", "latency"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} = {getattr(self, name)}: give 0 or more")

    def place(self, workers: int) -> list[int]:
        """By rank, the number of its host: hosts are filled in their order, and beyond that all alike."""
        if workers <= self.hosts * self.cores:
            return [rank // self.cores for rank in range(workers)]
        return [rank * self.hosts // workers for rank in range(workers)]


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """One way at one number of workers: seconds of a step, their 90 % interval, and what they go to."""

    way: str
    workers: int
    hosts: int
    seconds: float
    low: float
    high: float
    alone: float
    """Seconds of a step of the network as it is: measured."""
    parts: Mapping[str, float]
    turns: float
    """How many workers share a core."""

    @property
    def speedup(self) -> float:
        """Over the network as it is."""
        return self.alone / self.seconds

    def summary(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def simulate(measured: Figures, way: str, workers: int, on: Machine, sync_every: int = 10) -> Simulated:
    """What a step takes: so many workers, by one way, on another machine.

    Raises
    ------
    InputError
        For an unknown way, workers below 1, more of them than a batch has rows or a network sub-networks; for several
        hosts where nothing is said of what joins them, and nothing was measured.
    """
    if way not in WAYS:
        raise InputError(f"way = {way!r}: choose {', '.join(WAYS)}")
    if workers < 1:
        raise InputError(f"workers = {workers}: give 1 or more")
    if way == SUBNETS and workers not in measured.subnets:
        cut = ", ".join(map(str, sorted(measured.subnets))) or "none"
        raise InputError(f"{workers} sub-networks: this network was cut into {cut}")
    if way != SUBNETS and workers > measured.batch:
        raise InputError(f"{workers} workers: a batch of {measured.batch} rows has none for each; give a larger batch")
    hosts = on.place(workers)
    if len(set(hosts)) > 1 and not on.bandwidth and measured.links.between is None:
        raise InputError("nothing is known of what joins the hosts: give a link, as 10Gbit")
    turns = turns_of(hosts, on.cores)
    steps = [step_of(measured, way, hosts, on, sync_every, reached) for reached in REACHED]
    slow, taken, fast = (float(step.seconds) for step in steps)
    missed = math.hypot(measured.spread, MISSED_IN_TURNS if turns > 1 else MISSED)
    return Simulated(
        way=way, workers=workers, hosts=len(set(hosts)), seconds=taken, low=fast * math.exp(-QUANTILE * missed),
        high=slow * math.exp(QUANTILE * missed), alone=measured.alone, turns=turns,
        parts={name: float(of) for name, of in steps[1].parts().items()},
    )  # fmt: skip


def turns_of(hosts: Sequence[int], cores: int) -> float:
    """How many workers share a core, on the fullest host; 1 where each has its own."""
    return max(1.0, max(hosts.count(host) for host in set(hosts)) / cores)


def step_of(
    measured: Figures, way: str, hosts: Sequence[int], on: Machine, sync_every: int, reached: float = 1.0
) -> Step:
    """A step by its parts, of workers on these hosts, over links that reach such a part of their bandwidth."""
    workers, turns = len(hosts), turns_of(hosts, on.cores)
    late = measured.late.get(way, 0.0) * math.log2(turns)  # as many more rounds of waiting as a tree has levels more
    turns *= measured.crowding if turns > 1 else 1.0
    if workers == 1:
        return Step(computing=measured.alone)
    if way == SUBNETS:  # each trains by itself to the end: nobody waits in a step, nothing is sent
        return Step(computing=turns * measured.subnets[workers])
    rate = reached * on.bandwidth
    between = Link(on.latency, rate, rate) if on.bandwidth else measured.links.between
    links = replace(measured.links, between=between, cpus=on.cores)
    gradient = turns * gradient_seconds(measured, measured.batch / workers)
    if way == ASYNC:
        return replace(_asynchronous(measured, hosts, links, gradient, turns), waiting=late)
    of = Compute(gradient, measured.update, gradient + turns * measured.update)
    update = update_seconds(way, measured.size, hosts, of)
    slowest = expected_largest(measured.apart, workers) - float(np.mean(measured.apart))
    meets = sync_every if way == "local" else 1
    waiting = late + gradient * slowest / math.sqrt(turns * meets)  # what is a sum of several is less far apart
    exchange = exchange_seconds(way, measured.size, hosts, links, meets)
    return Step(computing=gradient, waiting=waiting, dispatch=update, exchange=exchange)


def gradient_seconds(measured: Figures, rows: float) -> float:
    """Seconds of forward and backward on so many rows: straight between what was measured, and on below it."""
    known = sorted(measured.gradients)
    return float(np.interp(rows, known, [measured.gradients[n] for n in known]))


def _asynchronous(measured: Figures, hosts: Sequence[int], links: Calibration, gradient: float, turns: float) -> Step:
    """As many gradients as there are workers, each a step of the server's, which trains its own shard besides.

    It takes them between its own steps, so it is the one who is late; with a bounded staleness the others go at its
    pace, while what they send is on its way.
    """
    workers = len(hosts)
    served = turns * workers * (measured.update + 2 * measured.size * links.gamma)
    away = sum(host != hosts[0] for host in hosts)  # all by the server's one link, gradients there and weights back
    link = links.between if away else links.local
    assert link is not None
    exchange = 2 * link.alpha + max(1, away) * measured.size / link.both
    return Step(computing=gradient, dispatch=served, exchange=exchange, hidden=min(exchange, gradient + served))
