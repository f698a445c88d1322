"""Laws of scaling: how long a unit of work takes on N workers, as a sum of terms that are known but for their weights.

Every law here is 1/X(N) = Σ c_j φ_j(N), c_j ≥ 0, X being work per second: computing that is divided, φ₀ = 1/N, and what
is not. So a fit is a least-squares problem with one answer, whatever it begins from (Lawson & Hanson, "Solving least
squares problems", 1974), where fitting σ and κ of a formula has several. Residuals are relative: a point counts by how
many percent it is off.

Strong and weak scaling have different laws, and nobody can tell from the numbers which it was: the series says. Where
all of the work is divided ("strong"), what workers tell each other is told once for all of it; where each worker has as
much as one had alone ("weak"), once for N times as much, and is divided by N here.

Knows numbers alone: no run, no torch, no MPI.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError

STRONG, WEAK = "strong", "weak"
GUSTAFSON = "Gustafson"


@dataclass(frozen=True, kw_only=True)
class Series:
    """What was measured, by the number of workers.

    Attributes
    ----------
    counts
        N, ascending, each once.
    rates
        Work per second at each, in any unit: samples/s, or 1/seconds of the same work.
    scaling
        STRONG: the same work for all; WEAK: as much for each worker as for one.
    per_host
        Workers on a host, where that is known; else 0.
    cores
        How many workers can compute at once; from more on they take turns, and no law here is of that. 0: no limit.
    servers
        Central servers that the gradient is spread over at each count, where there are such.
    largest
        The share of the largest tensor, which no two servers divide.

    Raises
    ------
    InputError
        For counts that repeat or fall, for what is no positive number, for lengths that differ.
    """

    counts: tuple[int, ...]
    rates: tuple[float, ...]
    scaling: str
    per_host: int = 0
    cores: int = 0
    servers: tuple[int, ...] = ()
    largest: float = 0.0

    def __post_init__(self) -> None:
        if self.scaling not in (STRONG, WEAK):
            raise InputError(f"scaling = {self.scaling!r}: say {STRONG} or {WEAK}, the numbers do not tell")
        if len(self.counts) != len(self.rates):
            raise InputError(f"there are {len(self.counts)} counts and {len(self.rates)} rates: give one for each")
        if any(b <= a for a, b in zip(self.counts, self.counts[1:], strict=False)) or min(self.counts, default=1) < 1:
            given = ", ".join(map(str, self.counts))
            raise InputError(f"counts = {given}: give numbers of workers, 1 or more, each once, ascending")
        wrong = [rate for rate in self.rates if not (np.isfinite(rate) and rate > 0)]
        if wrong:
            raise InputError(f"a rate is {wrong[0]}: give work per second, above 0")
        if self.servers and len(self.servers) != len(self.counts):
            raise InputError(f"there are {len(self.counts)} counts and {len(self.servers)} servers: give one for each")

    @classmethod
    def of_seconds(cls, counts: Sequence[int], seconds: Sequence[float], **more: object) -> Series:
        """From seconds: of the whole work where it is STRONG, of a step of each worker where it is WEAK."""
        weak = more.get("scaling") == WEAK
        rates = tuple((n if weak else 1) / s if s > 0 else 0.0 for n, s in zip(counts, seconds, strict=True))
        return cls(counts=tuple(counts), rates=rates, **more)  # type: ignore[arg-type]

    @property
    def usable(self) -> Series:
        """Without the counts at which workers take turns on the cores."""
        if not self.cores or self.counts[-1] <= self.cores:
            return self
        return self.first(sum(n <= self.cores for n in self.counts))

    def first(self, count: int) -> Series:
        """Of its smallest counts."""
        servers = self.servers[:count]
        return Series(
            counts=self.counts[:count], rates=self.rates[:count], scaling=self.scaling, per_host=self.per_host,
            cores=self.cores, servers=servers, largest=self.largest,
        )  # fmt: skip

    def speedup(self) -> tuple[float, ...]:
        """Over the smallest count, as if that were as many times one worker: S(N₁) = N₁."""
        return tuple(self.counts[0] * rate / self.rates[0] for rate in self.rates)


Terms = Callable[[np.ndarray, Series], list[np.ndarray] | None]


@dataclass(frozen=True)
class Law:
    """A law by its name; `terms` gives φ_j at some counts, or None where a series does not say what it needs."""

    name: str
    says: str
    terms: Terms


def _told(n: np.ndarray, series: Series) -> np.ndarray:
    """By what each thing told is multiplied, for a unit of work."""
    return 1 / n if series.scaling == WEAK else np.ones_like(n)


def _ideal(n: np.ndarray, series: Series) -> list[np.ndarray]:
    return [1 / n]


def _amdahl(n: np.ndarray, series: Series) -> list[np.ndarray]:
    return [1 / n, np.ones_like(n)]


def _gustafson(n: np.ndarray, series: Series) -> list[np.ndarray] | None:
    return None  # its rate is a sum of terms, not its time: see `fit`


def _usl(n: np.ndarray, series: Series) -> list[np.ndarray]:
    return [1 / n, (n - 1) / n, n - 1]


def _sums(n: np.ndarray, series: Series) -> list[np.ndarray]:
    return [1 / n, _told(n, series) * (n - 1) / n]


def _ring(n: np.ndarray, series: Series) -> list[np.ndarray]:
    return [*_sums(n, series), _told(n, series) * (n - 1)]


def _tree(n: np.ndarray, series: Series) -> list[np.ndarray]:
    return [1 / n, _told(n, series) * np.log2(n)]


def _levels(n: np.ndarray, series: Series) -> list[np.ndarray] | None:
    if series.per_host < 2 or series.counts[-1] <= series.per_host:
        return None
    inside, hosts = np.minimum(n, series.per_host), np.maximum(1, n / series.per_host)
    told = _told(n, series)
    return [1 / n, told * (inside - 1) / inside, told * (hosts - 1) / hosts]


def _many_levels(n: np.ndarray, series: Series) -> list[np.ndarray] | None:
    terms = _levels(n, series)
    return terms and [*terms, _told(n, series) * np.log2(np.maximum(1, n / series.per_host))]


def _server(n: np.ndarray, series: Series) -> list[np.ndarray] | None:
    if not series.servers:
        return None
    known = np.interp(n, series.counts, series.servers) * np.maximum(1, n / series.counts[-1])  # they grow on with it
    share = np.maximum(1 / np.maximum(1, known), series.largest)
    return [1 / n, _told(n, series) * (n - 1) * share]


LAWS: dict[str, Law] = {
    law.name: law
    for law in (
        Law("ideal", "all of it is divided", _ideal),
        Law("Amdahl", "a part is never divided (Amdahl, AFIPS 1967)", _amdahl),
        Law(GUSTAFSON, "a part does not grow with the workers (Gustafson, CACM 31, 1988)", _gustafson),
        Law("USL", "a part waits for others, and pairs agree (Gunther, Guerrilla Capacity Planning, 2007)", _usl),
        Law("ring", "sums, each number twice by every worker (Patarasuk & Yuan, JPDC 69, 2009)", _sums),
        Law("ring with latency", "the same, and a message from each to the next", _ring),
        Law("tree", "log N rounds of messages (Thakur et al., IJHPCA 19, 2005)", _tree),
        Law("two levels", "sums inside hosts, and between them", _levels),
        Law("two levels, tree", "the same, and log H rounds between H hosts", _many_levels),
        Law(
            "server",
            "what all send goes through servers, the largest tensor through one (Li et al., OSDI 2014)",
            _server,
        ),
    )
}


@dataclass(frozen=True)
class Fit:
    """A law with its weights."""

    law: Law
    weights: tuple[float, ...]
    series: Series

    def rate(self, counts: Sequence[float]) -> np.ndarray:
        """Work per second at some numbers of workers, in the unit of the series."""
        n = np.asarray(counts, float)
        if self.law.name == GUSTAFSON:
            return self.weights[0] * n + self.weights[1]
        terms = self.law.terms(n, self.series)
        assert terms is not None
        return 1 / np.maximum(np.stack(terms, 1) @ np.array(self.weights), np.finfo(float).tiny)

    @property
    def residual(self) -> float:
        """Root of the mean square of log(measured / fitted)."""
        return float(np.sqrt(np.mean(np.log(np.array(self.series.rates) / self.rate(self.series.counts)) ** 2)))


def fit(law: Law, series: Series) -> Fit | None:
    """The weights that are nearest, in percent; None where there are more of them than points, or a need is not met."""
    from scipy.optimize import nnls

    n, rates = np.array(series.counts, float), np.array(series.rates)
    if law.name == GUSTAFSON:
        if series.scaling != WEAK or len(n) < 2:
            return None
        weights, _ = nnls(np.stack([n, np.ones_like(n)], 1) / rates[:, None], np.ones_like(n))
        return Fit(law, tuple(map(float, weights)), series)
    terms = law.terms(n, series)
    if terms is None or len(terms) > len(n):
        return None
    weights, _ = nnls(np.stack(terms, 1) * rates[:, None], np.ones_like(n))
    return Fit(law, tuple(map(float, weights)), series) if weights.any() else None
