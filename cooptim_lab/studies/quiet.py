"""Whether a machine is quiet enough for seconds to count: what disturbs a round, and the wait for the end of it.

The counters are `hardware.load`'s; of trainings it knows what they say of themselves, not how they are made.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence

from ..hardware import load
from ..hardware.load import Disturbance, Reading
from ..runs.result import WAITS_MUCH, Result
from ..ways import count
from .rows import is_impossible

OTHERS = 0.1
"""A larger share of the CPUs in others' hands disturbs. Measured on two CPUs where nobody else was: 0.00 to 0.03; one
busy loop has a half, two and more had 0.71 to 0.88. A share s costs whoever waits for all threads s of the time."""
STOLEN = 0.05
"""Of the time, given by the host to other machines: it was 0.000 to 0.002 here. What it takes shows nowhere else: a
thread does not wait for it in the queue."""
LOOK_SECONDS = 0.3
"""To look at a machine on which nothing of ours runs: 30 ticks of the kernel's clock for each CPU."""
PATIENCE_SECONDS = 5.0
"""In all, for which a study waits for quiet: long enough for a page that loads or a compiler's file, and no longer than
one would wait without knowing why."""


def disturbs(seen: Disturbance) -> str:
    """What others took, if it is too much; else nothing."""
    if seen.others is not None and seen.others > OTHERS:
        return f"other programs had {100 * seen.others:.0f} % of the CPUs"
    if seen.stolen is not None and seen.stolen > STOLEN:
        return f"the host gave {100 * seen.stolen:.0f} % of the CPUs' time to other machines"
    return ""


def disturbed(seen: Disturbance, results: Sequence[Result], cpus: int) -> str:
    """What disturbed a round of trainings, the baseline first; nothing where it counts.

    Threads that are more than the CPUs wait for each other: of these nothing follows from their waiting.
    """
    if said := disturbs(seen):
        return said
    for result in results:
        share = result.ready_waiting
        if share is not None and share > WAITS_MUCH and result.workers * result.threads <= cpus:
            return f"threads were ready and did not run {100 * share:.0f} % of the time"
    for result in results:
        if is_impossible(result.way, result.workers, results[0].seconds / result.seconds):
            return f"{count(result.workers, 'worker')} seemed to gain more than there are"
    return ""


def throttled(seen: Iterable[Disturbance]) -> str:
    """That the cgroup's quota held the trainings back, which is this machine as it is; nothing where it did not."""
    shares = [one.throttled for one in seen if one.throttled]
    if not shares:
        return ""
    said = f"the CPU quota was used up in {100 * max(shares):.0f} % of its periods"
    return f"{said}: the seconds are those of so much CPU, not of more"


class Surroundings:
    """What goes on around the ranks that a study uses.

    Parameters
    ----------
    is_here
        Whether they are on this machine: of another, the counters here say nothing.
    read, clock, sleep
        Where readings and time come from.

    Attributes
    ----------
    ranks
        Their processes. With these, and with the notebook's own process, nobody is an other.
    """

    def __init__(
        self,
        *,
        is_here: bool,
        read: Callable[..., Reading] = load.read,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.ranks: Sequence[int] = ()
        self._is_here, self._read, self._clock, self._sleep = is_here, read, clock, sleep
        self._patience = PATIENCE_SECONDS
        self.begin()

    def begin(self) -> None:
        """From now on."""
        self._before = self._now()

    def so_far(self) -> Disturbance:
        """What others took since then."""
        seen = load.between(self._before, self._now())
        return seen if self._is_here else Disturbance(seen.seconds, None, None, None, None)

    def await_quiet(self, tell: Callable[[str], None]) -> bool:
        """Look, while nothing of ours runs, until nobody disturbs; False when the patience for it has come to its end.

        `tell` is called with what disturbs, at every look.
        """
        if not self._is_here:
            return True
        began = self._clock()
        while True:
            self.begin()
            self._sleep(LOOK_SECONDS)
            said = disturbs(self.so_far())
            waited = self._clock() - began
            if not said or waited >= self._patience:
                self._patience = max(0.0, self._patience - waited)  # when it is used up, one look must do
                return not said
            tell(said)

    def _now(self) -> Reading:
        return self._read((os.getpid(),), self.ranks)
