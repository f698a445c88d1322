"""What a lesson asks: claims, each a quantity that the student foretells and a run of their own answers.

Declarations only: how a quantity is read off a record is in `readings`, what comes of it in `verdicts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..runs.store import Record
from .languages import Text

TIMES, PERCENT, POINTS = Text("×", "×"), Text(" %", " %"), Text(" points", " 个百分点")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What one run says of a claim.

    Where `trouble` says why it cannot judge (others had the CPUs, one round only), there may be no value.
    """

    value: float | None
    low: float | None = None
    """The measured interval, 95 %; both None where there is none: `is_exact`, or one round."""
    high: float | None = None
    rounds: int = 1
    noise: float | None = None
    """Standard deviation of the rounds (of ratios: of their logarithms); None where unknown."""
    is_exact: bool = False
    """Whether another run would give the same: then there is no interval to ask for."""
    trouble: str = ""
    best: str | None = None
    """Which reason the data speak for, by its name; None where they do not tell."""
    told: Mapping[str, float] = field(default_factory=dict)
    """Numbers that the explanation is filled with."""


Reading = Callable[[Record], Evidence | None]
"""What a record says; None of a run that does not answer the claim."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One quantity to be foretold.

    Attributes
    ----------
    id
        Lesson and place in it: "3.1".
    name
        In words, as `%cooptim predict` is given it.
    unit
        Behind the number: `TIMES`, `PERCENT`, `POINTS`.
    is_ratio
        Whether errors are factors (speedups) or differences (accuracies).
    tolerance
        Of a ratio, 0.25 is up to 25 % more or less; of a difference, in the unit.
    kinds
        Of the runs that may answer; none: a published table answers, and nothing has to be run.
    read
        See `Reading`; of a published table `published` is called instead.
    run
        The line that the student runs for it, or which cell that is.
    reasons
        What may be given as --because, by name.
    because
        What each reason's being the right one means, filled from `Evidence.told`.
    """

    id: str
    name: Text
    unit: Text
    is_ratio: bool
    tolerance: float
    run: Text | str
    kinds: tuple[str, ...] = ()
    read: Reading | None = None
    published: Callable[[], Evidence] | None = None
    reasons: Mapping[str, Text] = field(default_factory=dict)
    because: Mapping[str, Text] = field(default_factory=dict)

    @property
    def lesson(self) -> int:
        """Its lesson's number."""
        return int(self.id.partition(".")[0])


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """Claims in the order in which they are asked."""

    number: int
    name: Text
    claims: tuple[Claim, ...]
