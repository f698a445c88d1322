"""The race as it is run: rounds of paired trainings, until one plan is left or the budget's share is used up.

Who is out is decided by `race`; what is trained, and how, is the study's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import LabError, RunStopped
from ..levers.plan import NONE, Plan
from ..runs.result import Result
from .goal import seconds_an_epoch
from .race import IN, Entry, close_round, standing
from .stage import Carrier

SHARE = 0.55
"""Of the budget, until when plans are raced."""
MOST_RACED = 40
"""Plans that are trained at all, the fastest at their gates."""
ROUNDS = 6
"""At most: over them the race's errors are spent."""


class Racing:
    """Of these plans, in the order in which they have their first turn."""

    def __init__(self, study: Carrier, plans: Sequence[Plan]) -> None:
        self.study = study
        self.racing = [study.entry(plan) for plan in plans[:MOST_RACED]]
        for plan in plans[MOST_RACED:]:
            study.entry(plan).leave("slower at its gate than those that are raced")

    def carry(self) -> None:
        """Rounds, until one plan is left or the share of the budget is used up."""
        study = self.study
        seeds = [study.seed + number for number in range(ROUNDS)]
        racing = self.racing
        for number, seed in enumerate(seeds):
            alive = [entry for entry in racing if entry.state == IN]
            if number and (len(alive) <= 1 or self._is_over()):
                return
            order = alive if number == 0 else study.random.sample(alive, len(alive))
            default = study.train(NONE, seed) if number or seed not in study.defaults else study.defaults[seed]
            for entry in order:
                if self._is_over() and study.rows:
                    if number == 0:
                        entry.leave("the budget was used up before its turn")
                        study.post(entry)
                    continue
                if number == 0 and self._is_beaten(entry):
                    entry.leave(f"an epoch takes {entry.gate:.2f} of the default's: the best reaches the goal sooner")
                else:
                    self._run(entry, seed, default, f"round {number + 1}: {entry.plan}")
                study.post(entry)
            for entry in close_round(racing, ROUNDS):
                study.post(entry)

    def _is_beaten(self, entry: Entry) -> bool:
        """Whether it could not win though it needed no more epochs than the best: so it need not be trained."""
        best = next(iter(standing(self.study.rows)), None)
        if entry.gate is None or best is None or best.figure is None or best.misses:
            return False
        shares = [mine / whole for mine, whole in zip(best.to_goal.values(), best.an_epoch.values(), strict=True)]
        return entry.gate * min(1.0, *shares) > best.figure.value

    def _run(self, entry: Entry, seed: int, default: Result, said: str) -> None:
        study = self.study
        assert study.goal is not None
        study.phase(said)
        try:
            result = study.train(entry.plan, seed)
        except RunStopped:
            raise
        except LabError as error:  # it diverged, or a way does not take this network: the others go on
            entry.leave(str(error))
            return
        before = study.goal.seconds(default)
        entry.an_epoch[seed] = seconds_an_epoch(result) / seconds_an_epoch(default)
        if math.isfinite(before):
            entry.to_goal[seed] = study.goal.seconds(result) / before

    def _is_over(self) -> bool:
        return self.study.spent > SHARE * self.study.budget
