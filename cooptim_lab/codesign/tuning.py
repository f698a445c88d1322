"""What a tuning came to: the plan, its proof, what it tied with, what its levers brought; in numbers and words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..levers.plan import NONE, Plan
from ..runs.result import Result
from ..studies.rows import CODESIGNED
from .answers import Answers
from .figures import Figure, figure, in_words, interval_in_words
from .goal import Goal
from .race import Entry

AS_IS, TUNED, PLAN = "as it is", "as it is, tuned", CODESIGNED
PROOF = "proof"
"""The state of a row that is one."""


@dataclass
class Part:
    """One of the trainings of a proof, in every round."""

    title: str
    plan: Plan
    to_goal: list[float] = field(default_factory=list)
    """Of each round, the seconds to the goal over the default's."""
    an_epoch: list[float] = field(default_factory=list)
    """Of the seconds of an epoch."""
    seconds: list[float] = field(default_factory=list)
    """To the goal; infinite where it was missed."""
    metrics: list[float] = field(default_factory=list)
    metric_name: str = ""
    workers: int = 1
    threads: int = 1
    parameters: int = 0
    why: str = ""
    """It could not be trained."""

    @property
    def figure(self) -> Figure | None:
        """P to the goal."""
        return figure(self.to_goal)

    @property
    def epoch_figure(self) -> Figure | None:
        """P of an epoch: what the same rows cost."""
        return figure(self.an_epoch)

    def summary(self) -> dict[str, Any]:
        """As a JSON object."""
        found, epoch = self.figure, self.epoch_figure
        median = statistics.median_high(self.seconds) if self.seconds else math.inf
        return {
            "plan": str(self.plan),
            "title": self.title,
            "state": PROOF,
            "why": self.why,
            "to_goal": None if found is None else found.summary(),
            "an_epoch": None if epoch is None else epoch.summary(),
            "seconds": None if math.isinf(median) else median,
            "metric": statistics.median(self.metrics) if self.metrics else None,
            "metric_name": self.metric_name,
            "workers": self.workers,
            "threads": self.threads,
            "parameters": self.parameters,
        }


@dataclass
class Tuning:
    """What `tune` gives.

    Attributes
    ----------
    plan
        The one that won; without levers where nothing was faster than the default.
    parts
        Of the proof; that titled `PLAN` is the headline.
    answers
        What the trained network's answers cost in smaller numbers: nothing that a training's P knows of.
    """

    batch: int
    epochs: int
    goal: Goal | None = None
    winner: Entry | None = None
    tied: Sequence[Entry] = ()
    parts: list[Part] = field(default_factory=list)
    answers: list[Answers] = field(default_factory=list)
    fast: Plan = NONE
    """Of the levers that change nothing that is learned, those that are faster alone."""
    score: float = math.nan
    """The default's median last score."""

    @property
    def plan(self) -> Plan:
        return NONE if self.winner is None or not self.is_gain else self.winner.plan

    @property
    def headline(self) -> Figure | None:
        """P to the goal, proved; None where there is no proof."""
        return next((part.figure for part in self.parts if part.title == PLAN), None)

    @property
    def beside_tuned(self) -> Figure | None:
        """The same over the best that one process does with the default's own steps, round by round."""
        by = {part.title: part for part in self.parts}
        if PLAN not in by or TUNED not in by:
            return self.headline
        pairs = zip(by[PLAN].seconds, by[TUNED].seconds, strict=False)
        return figure([mine / other for mine, other in pairs if math.isfinite(other)])

    @property
    def raced(self) -> Figure | None:
        """The winner's P in the race: too good, as the winner was lucky too."""
        return None if self.winner is None else self.winner.figure

    @property
    def is_gain(self) -> bool:
        """Whether the proof tells the plan apart from the default as the faster one; without a proof, the race."""
        if self.headline is not None:
            return self.headline.value < 1 and self.headline.is_told_apart is True
        return self.raced is not None and self.raced.value < 1 and self.raced.is_told_apart is not False

    def set_goal(self, goal: Goal, results: Sequence[Result]) -> None:
        """What a training has to reach, by these of the default."""
        self.goal = goal
        self.score = statistics.median(result.path[-1][3 if goal.is_accuracy else 2] for result in results)

    def choose(self, winner: Entry, tied: Sequence[Entry]) -> None:
        """Who won the race, and who could not be told from it."""
        self.winner, self.tied = winner, tuple(tied)

    # In words.

    @property
    def line(self) -> str:
        """What repeats the plan, as it is typed."""
        plan = self.plan if self.winner is None else self.winner.plan
        return f'%cooptim train --plan "{plan}" --epochs {self.epochs} --batch {self.batch}'

    def sentences(self) -> list[str]:
        """What a reader should know, the headline first."""
        if self.winner is None:
            return []
        if not self.winner.plan:
            return ["no gain on this machine: no plan was worth a training, see why below", *self._of_answers()]
        proved, raced = self.headline, self.raced
        if proved is None:
            led = f"{self.winner.plan} led with P {in_words(raced)}{_in_brackets(raced)}"
            return [f"stopped before the proof: {led}", f"try it: {self.line}"]
        between = (
            f", between {interval_in_words(proved)} (95 %)".replace("–", "and") if interval_in_words(proved) else ""
        )
        missed = (
            f"it missed the goal on {proved.misses} of {proved.pairs} seeds: P is the median then, and unsure"
            if proved.misses
            else ""
        )
        if not self.is_gain:
            told = "no gain told apart from noise" if proved.value < 1 else "no gain on this machine"
            said = f"{told}: the best of the race, {self.winner.plan}, has P "
            told = f"{said}{in_words(proved)}{between} when it is trained anew"
            return [*filter(None, (told, missed)), *self._ties(), *self._of_answers()]
        first = f"P = {in_words(proved)}{between} to {self.goal}: {self.plan}"
        beside = self.beside_tuned
        tuned = next((str(part.plan) for part in self.parts if part.title == TUNED), "")
        second = f"beside the default with {tuned}: P = {in_words(beside)}{_in_brackets(beside)}" if tuned else ""
        third = f"the race itself said {in_words(raced)}; the proof counts"
        return [
            *filter(None, (first, missed, second, third, self._most())),
            *self._ties(),
            *self._of_answers(),
            f"again: {self.line}",
        ]

    def _most(self) -> str:
        """Which lever the plan gets most of its gain from: the one without which it loses most.

        Beside the plan in the same rounds, which are the first: the parts have fewer of them where the budget is small.
        """
        whole = next((part for part in self.parts if part.title == PLAN), None)
        lost = {
            part.title.removeprefix("without "): part
            for part in self.parts
            if part.title.startswith("without ") and part.figure is not None
        }
        if not lost or whole is None:
            return ""
        name, part = max(lost.items(), key=lambda pair: _value(pair[1].figure))
        proved, value = figure(whole.to_goal[: len(part.to_goal)]), _value(part.figure)
        if proved is None or math.isinf(proved.value):
            return ""
        if value <= proved.value * 1.05:
            return "no single lever is missed: without any one of them P is about the same"
        without = "it never reaches the goal" if math.isinf(value) else f"P is {value:.2f}"
        return f"most of it comes from {name}: without it {without}"

    def _ties(self) -> list[str]:
        if not self.tied:
            return []
        names = "; ".join(str(entry.plan) for entry in self.tied[:3])
        more = f" and {len(self.tied) - 3} more" if len(self.tied) > 3 else ""
        return [f"not told apart from it in the race: {names}{more}; of such, the one with the fewest levers is taken"]

    def _of_answers(self) -> list[str]:
        tried = [each.sentence for each in self.answers if each.figure is not None]
        return [f"after training, beside its own float32: {'; '.join(tried)}"] if tried else []

    def summary(self) -> dict[str, Any]:
        """As a JSON object."""
        kept = {"headline": self.headline, "beside_tuned": self.beside_tuned, "raced": self.raced}
        return {
            "plan": str(self.plan),
            "batch": self.batch,
            "epochs": self.epochs,
            "goal": None if self.goal is None else str(self.goal),
            "sentences": self.sentences(),
            "parts": [part.summary() for part in self.parts],
            "answers": [each.summary() for each in self.answers],
            **{name: None if found is None else found.summary() for name, found in kept.items()},
        }


def _value(found: Figure | None) -> float:
    return math.inf if found is None else found.value


def _in_brackets(found: Figure | None) -> str:
    said = interval_in_words(found)
    return f" ({said})" if said else ""
