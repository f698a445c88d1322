"""The proof of a plan: fresh seeds, paired with the default, in random order; and what each of its levers brought.

In every round: the default, the best that one process does with its own steps, the plan; then, as far as the budget
goes, the plan with each lever left out, and each lever alone.
"""

from __future__ import annotations

import math
import random

from ..errors import InputError
from ..levers.plan import NONE, Plan
from ..runs.result import Result
from .goal import seconds_an_epoch
from .stage import Carrier
from .tuning import AS_IS, PLAN, TUNED, Part

FEWEST, MOST = 5, 12
"""Rounds: at least, whatever the budget is; and at most."""
FRESH = 1000
"""From the race's first seed to the proof's."""


class Proof:
    """Of one plan.

    Parameters
    ----------
    study
        Whose task, goal and budget it is.
    tuned
        What the plan must be faster than too; the default where nothing makes that faster.
    """

    def __init__(self, study: Carrier, plan: Plan, tuned: Plan) -> None:
        self.study, self.plan = study, plan
        self.parts = [Part(AS_IS, NONE)]
        if tuned and str(tuned) != str(plan):
            self.parts.append(Part(TUNED, tuned))
        if plan:
            self.parts.append(Part(PLAN, plan))
        self._first = len(self.parts)
        self.parts += _parts_of(plan)
        study.tuning.parts = self.parts
        self._random = random.Random(study.seed + FRESH)

    def carry(self) -> None:
        """Rounds until the budget is used up, and the fewest at least."""
        study, first = self.study, self.study.seed + FRESH
        began, share, rounds = study.spent, 0.0, 0
        for number in range(MOST):
            if number >= FEWEST and study.spent + share > study.budget:
                break
            asked = self.parts if self._has_time(number, share) else self.parts[: self._first]
            before = study.spent
            self._round(asked, first + number)
            rounds += 1
            share = study.spent - before if number == 0 else share
        took = study.spent - began
        study.say(f"the proof: {rounds} rounds of fresh seeds in {took:.0f} s")

    def _has_time(self, number: int, share: float) -> bool:
        """Whether the parts of the plan have a turn: so that the fewest rounds of the plan itself still fit."""
        if number == 0:
            return True
        alone = share * self._first / max(1, len(self.parts))
        return self.study.spent + share + alone * max(0, FEWEST - number - 1) <= self.study.budget

    def _round(self, parts: list[Part], seed: int) -> None:
        study, results = self.study, dict[str, Result]()
        asked = [part for part in self._random.sample(parts, len(parts)) if not part.why]
        told = study.train([part.plan for part in asked], seed, f"proof, seed {seed}")
        for part, result in zip(asked, told, strict=True):
            if isinstance(result, Result):
                results[part.title] = result
            else:
                part.why = result
        if AS_IS not in results:
            raise InputError(f"the default cannot be trained under seed {seed}: {self.parts[0].why}")
        assert study.goal is not None
        default = results[AS_IS]
        before = study.goal.seconds(default)
        for part in parts:
            if part.title not in results:
                continue
            result = results[part.title]
            part.an_epoch.append(seconds_an_epoch(result) / seconds_an_epoch(default))
            part.seconds.append(study.goal.seconds(result))
            part.metrics.append(result.metric)
            part.workers, part.threads, part.parameters = result.workers, result.threads, result.parameters
            part.metric_name = result.metric_name
            if math.isfinite(before):
                part.to_goal.append(study.goal.seconds(result) / before)
            study.post(part)


def _parts_of(plan: Plan) -> list[Part]:
    """The plan without each of its levers, and each alone; of one lever neither says more than the plan."""
    if len(plan) < 2:
        return []
    made = []
    for lever in plan.levers:
        without = plan.without(lever.name)
        if lever.way:  # what is for that way only goes with it
            without = Plan(tuple(each for each in without.levers if "baseline" in each.ways))
        alone = Plan((lever,)) if plan.way in ("", lever.way) or "baseline" in lever.ways else None
        if without:
            made.append(Part(f"without {lever}", without))
        if alone is not None:
            made.append(Part(f"{lever} alone", alone))
    return list({str(part.plan): part for part in reversed(made)}.values())[::-1]
