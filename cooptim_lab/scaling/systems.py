"""A machine that is not here: what a step takes on it, calibrated by the first rows that somebody measured there.

A `System` says what is known of it: how many workers a host has, what is sent, over links of which bandwidth. From
that follows what each part of a step may be (`PRIORS` where nothing is said), and the first rows of a measured series
narrow it: the most probable values, by least squares of relative residuals and of the distance to what was expected. So
one row is enough for a prediction, and each further one makes its interval narrower.

How wide the priors are, and what a model of so few parts misses besides (`MISSED`, `FURTHER`), was found on published
tables: `python -m tests.benchmarks simulate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .laws import STRONG, WEAK, Series
from .step import Step, hide, largest_of

ALLREDUCE, SERVER = "allreduce", "server"

PRIORS = {
    "dispatch": (0.02, 3.0),
    "inside": (0.04, 3.0),
    "between": (0.04, 2.5),
    "latency": (0.001, 4.0),
    "spread": (0.012, 2.5),
}
"""Of each part as a part of computing on the smallest count: its median, and by which factor it may be off (one
standard deviation). `spread` is that of computing, over workers and steps."""
KNOWN = 1.5
"""The same factor where bytes and bandwidth are known: protocols reach a half to all of what is written on a link."""
HIDDEN = 0.85
"""Of what is sent, as frameworks hide it that send layer by layer."""
PASSES = 16
"""Over all weights that an update makes of memory: Adam reads four vectors and writes three; gradients are cleared (1),
added up (2), scaled (2), and copied into the messages and out of them (4)."""
CALLS = 8e-4
"""Seconds that Python takes in a step for calls which no worker's share makes shorter: of the optimizer, of sums."""
NOISE = 0.015
"""Of a published figure, relative."""
MISSED, FURTHER = 0.025, 0.02
"""Standard deviation of what the model misses: at the last known count, and more for each doubling from there."""
QUANTILE = 1.645
"""Of the normal distribution: 90 % lie within so many standard deviations."""


@dataclass(frozen=True, kw_only=True)
class System:
    """What is known of a machine and of the network that is trained on it; 0 where nothing is.

    Attributes
    ----------
    way
        ALLREDUCE, or SERVER: through servers on the workers' hosts.
    bytes
        Of the gradient.
    step
        Work of one step, in the unit of the rates times seconds: of each worker where scaling is weak, of all where
        it is strong.
    inside, between
        Bandwidth of the links inside a host, and of a host's (or a server's) link to the others, in bytes per second.
    memory
        Bandwidth of a worker's memory, in bytes per second.
    hidden
        The part of what is sent that may be hidden.
    """

    way: str = ALLREDUCE
    bytes: float = 0.0
    step: float = 1.0
    inside: float = 0.0
    between: float = 0.0
    memory: float = 0.0
    hidden: float = HIDDEN

    def __post_init__(self) -> None:
        if self.way not in (ALLREDUCE, SERVER):
            raise InputError(f"way = {self.way!r}: choose {ALLREDUCE} or {SERVER}")
        if not self.step > 0:
            raise InputError(f"step = {self.step}: give the work of one step, above 0")
        for name in ("bytes", "inside", "between", "memory"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} = {getattr(self, name)}: give 0 where it is not known, or a number above it")
        if not 0 <= self.hidden <= 1:
            raise InputError(f"hidden = {self.hidden}: give a part, 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """One number of workers: a step by its parts, and work per second with its 90 % interval."""

    count: int
    step: Step
    rate: float
    low: float
    high: float


class Simulator:
    """A system, calibrated by the first rows of a series.

    Parameters
    ----------
    known
        The rows; their counts and rates, scaling, workers per host, the share of the largest tensor.
    servers
        By count, where there are servers: as many as there are, or will be.

    Raises
    ------
    InputError
        For a way by servers whose numbers are not said.
    """

    def __init__(self, system: System, known: Series, servers: Sequence[tuple[int, int]] = ()) -> None:
        from scipy.optimize import least_squares

        if system.way == SERVER and not servers:
            raise InputError("way = 'server': say how many servers there are at each number of workers")
        self.system, self.known, self._servers = system, known, tuple(servers)
        known = known.usable
        median, factor = np.array(list(self.priors().values())).T
        self._median, wide = np.log(median), np.log(factor)
        rates = np.log(np.array(known.rates))

        def residuals(logs: np.ndarray) -> np.ndarray:
            off = (self._log_rate(logs, np.array(known.counts, float)) - rates) / NOISE
            return np.concatenate([off, (logs[1:] - self._median) / wide])

        begin = np.concatenate([[math.log(self.first_step())], self._median])
        found = least_squares(residuals, begin)
        self._logs, self._unsure = found.x, np.linalg.inv(found.jac.T @ found.jac)

    def first_step(self) -> float:
        """Seconds of a step on the smallest count, as it was measured."""
        known = self.known
        return self.system.step * (known.counts[0] if known.scaling == WEAK else 1) / known.rates[0]

    def priors(self) -> dict[str, tuple[float, float]]:
        """Of each part, before any row: its median, in parts of the first step, and its factor."""
        system, told = self.system, dict(PRIORS)
        if system.bytes:
            times = 1 if system.way == SERVER else 2  # an allreduce sends each number twice
            for name, bandwidth in (("inside", system.inside), ("between", system.between)):
                if bandwidth:
                    told[name] = (times * system.bytes / bandwidth / self.first_step(), KNOWN)
            if system.memory and self.known.scaling == STRONG:
                update = PASSES * system.bytes / system.memory
                told["dispatch"] = ((update + CALLS) / self.first_step(), KNOWN)
        return told

    def at(self, counts: Sequence[int]) -> list[Predicted]:
        """What is foretold of some numbers of workers.

        Raises
        ------
        InputError
            For a count below 1.
        """
        if any(count < 1 for count in counts):
            raise InputError(f"workers = {min(counts)}: give numbers of workers, 1 or more")
        n = np.asarray(counts, float)
        logs = self._log_rate(self._logs, n)
        slopes = np.stack([self._slope(place, n) for place in range(len(self._logs))], 1)
        far = np.maximum(0, np.log2(n / self.known.counts[-1]))
        wide = np.sqrt(np.einsum("ij,jk,ik->i", slopes, self._unsure, slopes) + (MISSED + FURTHER * far) ** 2)
        step = self.step(n)
        pick = [Step(**{name: float(np.broadcast_to(of, n.shape)[i]) for name, of in vars(step).items()})
                for i in range(len(n))]  # fmt: skip
        low, high = np.exp(logs - QUANTILE * wide), np.exp(logs + QUANTILE * wide)
        return [
            Predicted(count=int(count), step=one, rate=float(rate), low=float(least), high=float(most))
            for count, one, rate, least, most in zip(counts, pick, np.exp(logs), low, high, strict=True)
        ]

    def step(self, n: np.ndarray, logs: np.ndarray | None = None) -> Step:
        """A step's parts at some counts, by the most probable values or by others."""
        logs = self._logs if logs is None else logs
        alone = math.exp(logs[0])
        of = dict(zip(PRIORS, alone * np.exp(logs[1:]), strict=True))
        weak = self.known.scaling == WEAK
        computing = alone * np.ones_like(n) if weak else alone / (n / self.known.counts[0])
        dispatch = of["dispatch"] * (n > 1) if weak else of["dispatch"] * np.ones_like(n)
        exchange = self._exchange(n, of)
        return Step(
            computing=computing, waiting=computing * math.exp(logs[-1]) * largest_of(n), dispatch=dispatch,
            exchange=exchange, hidden=hide(exchange, computing, self.system.hidden if self.system.bytes else 0.0),
        )  # fmt: skip

    def _exchange(self, n: np.ndarray, of: dict[str, float]) -> np.ndarray:
        """Sums round a ring inside hosts and one between them; or what all workers send to the busiest server."""
        per_host = self.known.per_host or np.inf
        inside, hosts = np.minimum(n, per_host), np.maximum(1, np.ceil(n / per_host))
        told = of["inside"] * (inside - 1) / inside
        if self.system.way == SERVER:
            counts, servers = np.array(self._servers, float).T
            share = np.maximum(1 / np.interp(n, counts, servers), self.known.largest)
            return np.where(n > 1, told + of["between"] * n * share, 0.0)
        return told + of["between"] * (hosts - 1) / hosts + of["latency"] * np.log2(hosts)

    def _log_rate(self, logs: np.ndarray, n: np.ndarray) -> np.ndarray:
        work = self.system.step * (n if self.known.scaling == WEAK else np.ones_like(n))
        return np.log(work / self.step(n, logs).seconds)

    def _slope(self, place: int, n: np.ndarray) -> np.ndarray:
        by = np.zeros_like(self._logs)
        by[place] = 1e-4
        return (self._log_rate(self._logs + by, n) - self._log_rate(self._logs - by, n)) / 2e-4
