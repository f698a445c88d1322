"""What the hardware can do at the most, as it was measured: rates, bandwidths and costs, each with its spread.

Numbers in, numbers out: JSON, and what lies between two measured sizes. Nothing is measured here (`costs.measuring`
does, on ranks), nothing is kept (`costs.known`), and torch is not known. The picture that is drawn of it is the
roofline of Williams, Waterman and Patterson, "Roofline: an insightful visual performance model", Communications of the
ACM 52, 2009.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from . import chip, cpus
from .cgroups import quota
from .mpi import find_mpi
from .readings import ROOT, installed_version, sysctl

VERSION = 2
"""Of what is measured and how: what an older one has kept is measured again."""
SKINNY_ROWS = 64
"""Rows of a skinny product: as many as a batch has where nobody says."""
THIN_ROWS = 8
"""Of a thinner one."""
TENSORS = 64
"""That an optimizer steps in "step of tensors"."""
FLOAT32, BF16, INSIDE = "float32", "bf16", "float32, bf16 inside"
PRECISIONS = (FLOAT32, BF16, INSIDE)
RATES = ("square", "skinny", "thin", "outer", "batched", "convolution", "cells", "attention")
BANDWIDTHS = ("cache", "memory", "fresh", "function", "link", "link, both ways")
COSTS = ("operator", "operator, trained", "view, trained", "loss", "latency")
STEPS = ("step of a tensor", "step of tensors", "step of a large tensor")
UNITS = {**dict.fromkeys(RATES, "GFLOP/s"), **dict.fromkeys(BANDWIDTHS, "GB/s"), **dict.fromkeys(COSTS + STEPS, "s")}
"""What there is, and in what it is measured. A GFLOP is 10⁹ additions and multiplications, a GB 10⁹ bytes."""


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """One figure: the median of its samples and their quartiles; None where it could not be had, and `why` says why.

    Of a figure that is there, `why` is what is to be said of it; mostly nothing.
    """

    kind: str
    """One of `UNITS`."""
    name: str = ""
    """Of a product its precision; of an optimizer its name and how it is carried out; of a convolution which of its
    three, of a function its family (`costs.families`)."""
    threads: int = 1
    """Of the one process that was measured; of a link 1, of each of its two ranks."""
    size: int = 0
    """Of a product n, of a layer its channels or width, of memory the bytes that are gone through, of an optimizer the
    parameters, of a function the numbers."""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    samples: int = 0
    why: str = ""

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What it is about: of two with the same, the later one counts."""
        return self.kind, self.name, self.threads, self.size

    def summary(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any]) -> Ceiling:
        """What `summary` wrote.

        Raises
        ------
        ValueError
            When it is something else.
        """
        try:
            made = cls(**summary)
            numbers = (made.value, made.low, made.high)
            well = made.kind in UNITS and all(n is None or (math.isfinite(n) and n >= 0) for n in numbers)
            if not well or not isinstance(made.threads, int) or not isinstance(made.size, int):
                raise ValueError(f"not a ceiling: {dict(summary)}")
        except TypeError as error:
            raise ValueError(f"not a ceiling: {error}") from None
        return made


@dataclass(frozen=True)
class Found:
    """A figure that was looked up: what was measured, or what lies between two measured sizes."""

    value: float
    beyond: str = ""
    """That the size was beyond what is measured, so that the nearest one's figure was taken; empty where it was not."""


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """All figures of a machine.

    Attributes
    ----------
    fingerprint
        What they hold for (see `fingerprint`).
    taken
        When, in seconds since the epoch.
    seconds
        How long that took.
    cpus
        Threads of "all": as many CPUs as one process may keep busy. Beside it there is 1.
    rows
        The figures, once for each `key`.
    doubts
        A line for each thing that takes something away from them: that others had the CPUs, say.
    """

    fingerprint: Mapping[str, Any]
    taken: float
    seconds: float
    cpus: int
    rows: tuple[Ceiling, ...]
    doubts: tuple[str, ...] = ()
    version: int = VERSION

    def summary(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any]) -> Ceilings:
        """What `summary` wrote.

        Raises
        ------
        ValueError
            When it is something else, or of another version.
        """
        try:
            if set(summary) != {item.name for item in fields(cls)} or summary["version"] != VERSION:
                raise ValueError("not the ceilings of this version")
            rows = tuple(map(Ceiling.from_summary, summary["rows"]))
            return cls(
                fingerprint=dict(summary["fingerprint"]),
                taken=float(summary["taken"]),
                seconds=float(summary["seconds"]),
                cpus=int(summary["cpus"]),
                rows=rows,
                doubts=tuple(map(str, summary["doubts"])),
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not ceilings: {error}") from None

    def find(self, kind: str, name: str = "", threads: int = 1) -> list[Ceiling]:
        """The figures of a kind, by size; those that could not be had are not among them."""
        fitting = (row for row in self.rows if (row.kind, row.name, row.threads) == (kind, name, threads))
        return sorted((row for row in fitting if row.value is not None), key=lambda row: row.size)

    def one(self, kind: str, name: str = "", threads: int = 1) -> float | None:
        """The figure of a kind that has one size; None where it could not be had."""
        return next((row.value for row in self.find(kind, name, threads)), None)

    def rate(self, size: float, precision: str = FLOAT32, threads: int = 1, *, kind: str = "square") -> Found | None:
        """GFLOP/s of a product of matrices: n × n by n × n, or of `kind` "skinny" `SKINNY_ROWS` × n by n × n.

        None where nothing of that precision could be measured.
        """
        return between(self.find(kind, precision, threads), size, "n")

    def product_rate(self, m: int, k: int, n: int, precision: str = FLOAT32, threads: int = 1) -> Found | None:
        """GFLOP/s of a product of m × k by k × n.

        As of the square one of as many operations where its least side is that long, as of the skinny one where it is
        `SKINNY_ROWS` or less, between them (log-log in the least side) else.
        """
        least, side = min(m, k, n), (m * k * n) ** (1 / 3)
        square = self.rate(side, precision, threads)
        skinny = self.rate(math.sqrt(m * k * n / SKINNY_ROWS), precision, threads, kind="skinny")
        if square is None or skinny is None or side <= SKINNY_ROWS or least >= side * (1 - 1e-9):
            return square or skinny
        share = min(1.0, max(0.0, math.log(least / SKINNY_ROWS) / math.log(side / SKINNY_ROWS)))
        value = math.exp(share * math.log(square.value) + (1 - share) * math.log(skinny.value))
        return Found(value, (square.beyond if share > 0 else "") or (skinny.beyond if share < 1 else ""))

    def bandwidth(self, size: float, threads: int = 1) -> Found | None:
        """GB/s that is read and written where so many bytes are gone through again and again.

        Fewer than the cache holds go as fast as those did that were measured there, more than memory's as those.
        """
        points = [*self.find("cache", "", threads), *self.find("memory", "", threads)]
        found = between(sorted(points, key=lambda row: row.size), size, "bytes")
        return found and Found(found.value)

    def optimizer_costs(self, name: str, threads: int = 1) -> tuple[float, float, float] | None:
        """Seconds of an optimizer's zero_grad and step: of the call, for each tensor, and for each parameter.

        Parameters
        ----------
        name
            "Adam, fused", "SGD, loop": SGD has momentum, and "loop" is torch's default on a CPU.
        """
        found = [self.find(kind, name, threads) for kind in ("step of a tensor", "step of tensors")]
        large = self.find("step of a large tensor", name, threads)
        if not all(found) or not large:
            return None
        one, many, most = (rows[0].value or 0.0 for rows in (*found, large))
        by_tensor = max(0.0, many - one) / (TENSORS - 1)
        return max(0.0, one - by_tensor), by_tensor, max(0.0, most - one) / large[0].size

    def optimizer_seconds(self, name: str, tensors: int, parameters: int, threads: int = 1) -> float | None:
        """Seconds of an optimizer's step over so many tensors with so many parameters; None where it is not known."""
        costs = self.optimizer_costs(name, threads)
        return costs and costs[0] + tensors * costs[1] + parameters * costs[2]

    def peak(self, precision: str = FLOAT32, threads: int = 1) -> float | None:
        """The highest of the rates, in GFLOP/s: the roof."""
        rates = [row.value for kind in ("square", "skinny") for row in self.find(kind, precision, threads)]
        return max((rate for rate in rates if rate is not None), default=None)


def between(points: Sequence[Ceiling], size: float, what: str) -> Found | None:
    """The figure at a size, on straight lines through the points in log-log; nothing is drawn on beyond them.

    Parameters
    ----------
    points
        By size, with values above 0.
    what
        The size's name, for what is said of one beyond them.
    """
    known = [(row.size, row.value) for row in points if row.value]
    if not known:
        return None
    (least, first), (most, last) = known[0], known[-1]
    if size < least * (1 - 1e-9):
        return Found(first, f"{what} = {size:.4g} is below the least measured, {least:,}: its figure is taken")
    if size > most * (1 + 1e-9):
        return Found(last, f"{what} = {size:.4g} is above the largest measured, {most:,}: its figure is taken")
    for (low, under), (high, over) in pairwise(known):
        if size <= high:
            share = max(0.0, math.log(size / low) / math.log(high / low))
            return Found(math.exp((1 - share) * math.log(under) + share * math.log(over)))
    return Found(last)


def latest(rows: Sequence[Ceiling]) -> tuple[Ceiling, ...]:
    """Each figure once, as it was told last."""
    return tuple({row.key: row for row in rows}.values())


# The machine they hold for.


def fingerprint(root: Path = ROOT) -> dict[str, Any]:
    """What ceilings depend on: when any of it has changed, they are measured again. A JSON object; a few file reads.

    The host's name is not among it: a container has another each time.
    """
    first_cpu, answers = chip.first_cpu(root), sysctl(root)
    allowed, mpi = cpus.affinity(), find_mpi()
    return {
        "cpu": chip.cpu_name(first_cpu, answers),
        "flags": first_cpu.get("flags") or first_cpu.get("Features") or " ".join(chip.vector_units({}, answers) or ()),
        "cpus": cpus.cores_host(root) if allowed is None else len(allowed),
        "quota": quota(root),
        "torch": installed_version("torch"),
        "mpi": f"{mpi.name or mpi.mpiexec} {mpi.version or ''}".strip(),
        "mpi4py": mpi.mpi4py,
    }


def digest(print: Mapping[str, Any]) -> str:
    """A fingerprint as a name for a file: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(print, sort_keys=True).encode()).hexdigest()[:16]


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What of a fingerprint is another, a few words each."""
    for name in now:
        if before.get(name) != now[name]:
            yield name if name == "flags" else f"{name} was {before.get(name)}, is {now[name]}"
