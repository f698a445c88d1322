"""What a stage of a tuning (the race, the proof) needs of the study that carries it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol

from ..levers import Plan
from ..runs.result import Result
from .goal import Goal
from .race import Entry
from .tuning import Part, Tuning


class Carrier(Protocol):
    """The study: it trains, tells, and knows how much of the budget is left."""

    seed: int
    """The first of the race."""
    batch: int
    """Rows of a step of the default."""
    budget: float
    """Seconds."""
    goal: Goal | None
    tuning: Tuning
    random: random.Random
    defaults: dict[int, Result]
    """Trainings of the default that are there already, by seed."""

    @property
    def rows(self) -> list[Any]:
        """Entries that were trained."""
        ...

    def untrained(self) -> list[Entry]:
        """Entries that are in, and were not trained."""
        ...

    @property
    def spent(self) -> float:
        """Seconds so far."""
        ...

    def train(self, plans: Sequence[Plan], seed: int, where: str) -> list[Result | str]:
        """Trainings in this order, until the goal; of each its result, or why there is none."""
        ...

    def entry(self, plan: Plan) -> Entry:
        """What is known of a plan."""
        ...

    def post(self, known: Entry | Part) -> None:
        """Tell what is known of a plan by now."""
        ...

    def phase(self, text: str) -> None:
        """Tell what is done now."""
        ...

    def say(self, text: str) -> None:
        """Tell how it was done."""
        ...
