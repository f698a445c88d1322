"""A race between plans in paired rounds: who stands where, who is out and why, who has won.

Pure arithmetic on ratios that were measured elsewhere. A round trains every plan that is still in, and the default,
under one seed; a plan's ratio is its seconds to the goal over the default's of that round.

Whether a plan is slower than the best one is asked after every round, of every plan: the errors that this may make are
spent over all of it (Bonferroni: `ERROR` over the rounds times the plans that are in), so that the best plan is thrown
out of a whole race in at most one of twenty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..levers.plan import Plan
from ..studies.intervals import ratio_interval
from .figures import Figure, figure

ERROR = 0.05
MOST_MISSES = 2
"""A plan that never reached the goal so often is out."""
HOPELESS = 2.0
"""Times the best ratio of the first round: what is further behind is out, as no second round could bring it back."""
IN, OUT, WON = "in", "out", "won"


@dataclass
class Entry:
    """A plan in the race."""

    plan: Plan
    gate: float | None = None
    """Seconds of an epoch over the default's, measured in a moment; None where they were not."""
    predicted: float | None = None
    """The same by the machine's ceilings; None where they are not known."""
    to_goal: dict[int, float] = field(default_factory=dict)
    """By seed, the ratio of the seconds to the goal."""
    an_epoch: dict[int, float] = field(default_factory=dict)
    """By seed, of the seconds of an epoch."""
    state: str = IN
    why: str = ""
    """It is out."""

    @property
    def figure(self) -> Figure | None:
        """P to the goal so far."""
        return figure(list(self.to_goal.values()))

    @property
    def misses(self) -> int:
        """Of its seeds, those on which it never reached the goal."""
        return sum(map(math.isinf, self.to_goal.values()))

    def leave(self, why: str) -> None:
        """It is out."""
        self.state, self.why = OUT, why

    def summary(self) -> dict[str, Any]:
        """As a JSON object."""
        epoch = figure(list(self.an_epoch.values()))
        return {
            "plan": str(self.plan),
            "gate": self.gate,
            "predicted": self.predicted,
            "state": self.state,
            "why": self.why,
            "to_goal": None if self.figure is None else self.figure.summary(),
            "an_epoch": None if epoch is None else epoch.summary(),
        }


def standing(entries: Sequence[Entry]) -> list[Entry]:
    """Those that are in and were trained, the best first; of two that stand alike, the one with fewer levers."""
    known = [entry for entry in entries if entry.state != OUT and entry.figure is not None]
    return sorted(known, key=lambda entry: (entry.misses, _value(entry), len(entry.plan)))


def close_round(entries: Sequence[Entry], rounds: int) -> list[Entry]:
    """After a round, those are out that the best one has left behind; they are returned.

    Parameters
    ----------
    rounds
        As many as there will be, over which the errors are spent.
    """
    order = standing(entries)
    if not order:
        return []
    best, out = order[0], []
    level = 1 - ERROR / (max(1, rounds) * max(1, len(order)))
    for entry in order[1:]:
        if entry.misses >= MOST_MISSES:
            entry.leave(f"did not reach the goal on {entry.misses} of {len(entry.to_goal)} seeds")
        elif len(entry.to_goal) == 1 and _value(entry) > HOPELESS * _value(best):
            entry.leave(f"far behind in the first round: {_said(_value(entry))} beside {_said(_value(best))}")
        elif is_slower(entry, best, level):
            entry.leave(f"slower than the best: {_said(_value(entry))} beside {_said(_value(best))}")
        else:
            continue
        out.append(entry)
    return out


def is_slower(entry: Entry, best: Entry, level: float) -> bool:
    """Whether the interval of its seconds over the best one's, seed by seed, lies above 1."""
    ratios = paired(entry, best)
    found = ratio_interval(ratios, level) if len(ratios) > 1 else None
    return found is not None and found.low > 1


def paired(entry: Entry, other: Entry) -> list[float]:
    """Its seconds to the goal over the other's, on the seeds on which both reached it."""
    seeds = [seed for seed in entry.to_goal if seed in other.to_goal]
    both = [seed for seed in seeds if math.isfinite(entry.to_goal[seed]) and math.isfinite(other.to_goal[seed])]
    return [entry.to_goal[seed] / other.to_goal[seed] for seed in both]


def choose(entries: Sequence[Entry]) -> tuple[Entry, list[Entry]]:
    """The winner, and those that the race could not tell from the best.

    Of plans that tie within the noise, the one with the fewest levers wins; of those, the fastest.

    Raises
    ------
    ValueError
        When none was trained.
    """
    order = standing(entries)
    if not order:
        raise ValueError("no plan was trained: there is none to choose")
    best = order[0]
    tied = [entry for entry in order[1:] if entry.misses <= best.misses and _ties(entry, best)]
    winner = min([best, *tied], key=lambda entry: (len(entry.plan), _value(entry)))
    return winner, [entry for entry in (best, *tied) if entry is not winner]


def _ties(entry: Entry, best: Entry) -> bool:
    """Whether nobody can say that it is slower; of one pair, nobody can say anything."""
    ratios = paired(entry, best)
    found = ratio_interval(ratios, 1 - ERROR) if len(ratios) > 1 else None
    return found is not None and found.low <= 1 and _value(entry) <= TIED * _value(best)


TIED = 1.05
"""Times the best figure: what is further behind does not tie, however wide the interval of few rounds is."""


def _value(entry: Entry) -> float:
    found = entry.figure
    return math.inf if found is None else found.value


def _said(value: float) -> str:
    return "a miss" if math.isinf(value) else f"P {value:.2f}"
