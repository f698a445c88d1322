"""Steps of the kit's own ways on a machine that is not here, from what was measured of them on the one that is.

What is computed is the same: a rank's part of the batch is measured in several sizes, and what lies between is
interpolated. What is sent follows from the formulas of `costs`, over this machine's links inside a host and over one
that is given between hosts. More workers than a host has cores take turns. A step that all make together ends with its
slowest: how far single steps are apart is measured too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..costs.formulas import exchange_seconds
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
class Measured:
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

    def summary(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any]) -> Measured:
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
        For less than one host or core, a link of no bandwidth, several hosts with nothing between them.
    """

    hosts: int = 1
    cores: int = 1
    bandwidth: float = 0.0
    """Of a host's link to the others, in bytes per second, as it is written on it."""
    latency: float = 5e-5
    """Of a message between hosts, in seconds."""

    def __post_init__(self) -> None:
        for name in ("hosts", "cores"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)}: give 1 or more")
        if self.hosts > 1 and not self.bandwidth > 0:
            raise InputError("a link of 0 joins no hosts: give its bandwidth, as 10Gbit")
        if not self.latency >= 0:
            raise InputError(f"latency = {self.latency}: give seconds, 0 or more")

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


def simulate(measured: Measured, way: str, workers: int, on: Machine, sync_every: int = 10) -> Simulated:
    """What a step takes: so many workers, by one way, on another machine.

    Raises
    ------
    InputError
        For an unknown way, workers below 1, more of them than a batch has rows or a network sub-networks.
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
    crowd = max(hosts.count(host) for host in set(hosts))
    turns = max(1.0, crowd / on.cores)
    steps = [_step(measured, way, hosts, on, turns, sync_every, reached) for reached in REACHED]
    slow, taken, fast = (float(step.seconds) for step in steps)
    missed = math.hypot(measured.spread, MISSED_IN_TURNS if turns > 1 else MISSED)
    return Simulated(
        way=way, workers=workers, hosts=len(set(hosts)), seconds=taken, low=fast * math.exp(-QUANTILE * missed),
        high=slow * math.exp(QUANTILE * missed), alone=measured.alone, turns=turns,
        parts={name: float(of) for name, of in steps[1].parts().items()},
    )  # fmt: skip


def _step(
    measured: Measured, way: str, hosts: list[int], on: Machine, turns: float, sync_every: int, reached: float
) -> Step:
    workers = len(hosts)
    if way == SUBNETS:  # each trains by itself to the end: nobody waits in a step, nothing is sent
        return Step(computing=turns * measured.subnets[workers])
    rate = reached * on.bandwidth
    between = Link(on.latency, rate, rate) if len(set(hosts)) > 1 else None
    links = replace(measured.links, between=between, cpus=on.cores)
    gradient = turns * _gradient(measured, measured.batch / workers)
    update = turns * measured.update
    if way == ASYNC:
        return _asynchronous(measured, hosts, links, gradient, turns)
    if workers == 1:
        return Step(computing=gradient, dispatch=update)
    of = Compute(gradient, measured.update, gradient + update)
    update = _update(way, measured, hosts, links, of)
    late = expected_largest(measured.apart, workers) - float(np.mean(measured.apart))
    meets = sync_every if way == "local" else 1
    waiting = gradient * late / math.sqrt(turns * meets)  # what is a sum of several is less far apart
    exchange = exchange_seconds(way, measured.size, hosts, links, meets)
    return Step(computing=gradient, waiting=waiting, dispatch=update, exchange=exchange)


def _gradient(measured: Measured, rows: float) -> float:
    """Seconds of forward and backward on so many rows: straight between what was measured, and on below it."""
    known = sorted(measured.gradients)
    return float(np.interp(rows, known, [measured.gradients[n] for n in known]))


def _update(way: str, measured: Measured, hosts: list[int], links: Calibration, of: Compute) -> float:
    """Seconds of the updates that a step has, by the rule of `costs.formulas.step_seconds`."""
    from ..costs.formulas import step_seconds

    exchange = exchange_seconds(way, measured.size, hosts, links)
    return step_seconds(way, measured.size, hosts, links, of) - exchange - of.gradient


def _asynchronous(measured: Measured, hosts: list[int], links: Calibration, gradient: float, turns: float) -> Step:
    """As many gradients as there are workers, each a step of the server's, which trains its own shard besides.

    It takes them between its own steps, so it is the one who is late; with a bounded staleness the others go at its
    pace, while what they send is on its way.
    """
    workers = len(hosts)
    served = turns * workers * (measured.update + 2 * measured.size * links.gamma)
    if workers == 1:
        return Step(computing=gradient, dispatch=served)
    there_and_back = exchange_seconds("server", measured.size, [hosts[0], hosts[-1]], links)
    busy = (workers - 1) * 2 * measured.size / links.between.beta if links.between else 0.0  # the server's one link
    return Step(computing=gradient, dispatch=served, exchange=max(there_and_back, busy), hidden=min(
        max(there_and_back, busy), gradient + served
    ))  # fmt: skip
