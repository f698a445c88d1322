"""One figure to be measured: what it is about, and the action that is called again and again.

How often, in which order and with how many threads is for `measuring`; which there are, for `gauges`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from ..hardware.ceilings import Ceiling

Action = Callable[[], object]


class Refused(Exception):
    """A figure that cannot be had here, and why, in a few words."""


@dataclass(frozen=True)
class Gauge:
    """One figure to be measured.

    `make` makes the action, or raises `Refused`; `per_call` is what a call amounts to, in the figure's unit: operations
    or bytes in 10⁹ for a rate, how many of what is told for a cost.
    """

    about: Ceiling
    make: Callable[[], Action]
    per_call: float
    is_rate: bool = True
    remark: Callable[[], str] | None = None
    """Asked once, when it can be measured: what is to be said of the figure."""
    around: Callable[[], AbstractContextManager[None]] = nullcontext
    """How torch is set while the action is made and called: once a sample, for that takes longer than a small call."""

    def value(self, seconds: float) -> float:
        """The figure, of the seconds of a call."""
        return self.per_call / seconds if self.is_rate else seconds / self.per_call
