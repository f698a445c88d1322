"""The race as it is run: rounds of paired trainings, until one plan is left or the budget's share is used up.

In the first round one thing is seen after the other: which rule each batch's learning rate follows, then the levers
that go with it, then other ways of training; what could not win even so is not trained. Who is out is decided by
`race`; what is trained, and how, is the study's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ..errors import InputError
from ..levers import Lever
from ..levers.plan import NONE, Plan
from ..runs.result import Result
from . import candidates
from .goal import seconds_an_epoch
from .race import IN, Entry, close_round, standing
from .stage import Carrier

SHARE = 0.6
"""Of the budget, until when plans are raced."""
FIRST_SHARE = 0.5
"""Of the budget, until when new ones come in."""
ROUNDS = 6
"""At most: over them the race's errors are spent."""
PROMISING = 8
"""Of the plans with other levers, those that have their turn before the other ways of training."""
SEARCHES = 2
"""So often the neighbours of the leading plan come in."""
TOGETHER = 4
"""Trainings of the first round after which it is looked who cannot win any more."""


class Racing:
    """Between plans of these levers.

    Parameters
    ----------
    fast
        The levers that change nothing that is learned, put together.
    gates
        What was measured of plans so far.
    """

    def __init__(self, study: Carrier, levers: Sequence[Lever], fast: Plan, gates: candidates.Gates) -> None:
        self.study, self.levers, self.fast, self.gates = study, levers, fast, gates
        self.racing: list[Entry] = []

    def carry(self) -> None:
        """All rounds."""
        self._first_round()
        for entry in self.study.untrained():
            entry.leave("not trained by itself: plans with other levers beside it come in its place")
            self.study.post(entry)
        self._close()
        for number in range(1, ROUNDS):
            alive = [entry for entry in self.racing if entry.state == IN]
            if len(alive) <= 1 or self._is_over(SHARE):
                return
            self._round(alive, self.study.seed + number, f"round {number + 1}")
            self._close()

    def _first_round(self) -> None:
        rules = candidates.of_rules(self.levers, self.fast, self.gates, self.study.batch)
        self._enter(rules, is_thinned=False)
        best: dict[int | None, Plan] = {}
        for entry in standing([entry for entry in self.racing if not entry.misses]):
            best.setdefault(candidates.batch_of(entry.plan), entry.plan)
        rates = {None: None, **{size: candidates.rate_of(plan) for size, plan in best.items()}}
        others = candidates.of_others(self.levers, self.fast, self.gates, rates)
        self._enter(others[:PROMISING])
        self._enter(candidates.of_ways(self.levers, self.fast, next(iter(best.values()), NONE)), is_thinned=False)
        leading = next((entry for entry in standing(self.racing) if entry.plan.way == "subnets"), None)
        if leading is not None:
            self._enter(candidates.on_more_ranks(self.levers, leading.plan))
        for _ in range(SEARCHES):
            leading = next(iter(standing(self.racing)), None)
            if leading is not None:
                self._enter(candidates.neighbours(self.levers, leading.plan))
        self._enter(others[PROMISING:])

    def _enter(self, plans: Iterable[Plan], *, is_thinned: bool = True) -> None:
        """New plans have their first turn, a few at a time."""
        study, waiting = self.study, [study_entry for plan in plans if (study_entry := self._new(plan))]
        while waiting:
            if self._is_over(FIRST_SHARE) and study.rows:
                for entry in waiting:
                    entry.leave("the budget's share was used up before its turn")
                    study.post(entry)
                return
            now, waiting = waiting[:TOGETHER], waiting[TOGETHER:]
            beaten = [entry for entry in now if is_thinned and self._is_beaten(entry)]
            for entry in beaten:
                entry.leave(f"an epoch takes {entry.gate:.2f} of the default's: the best reaches the goal sooner")
                study.post(entry)
            self._run(
                [entry for entry in now if entry not in beaten], study.seed, "round 1", study.defaults[study.seed]
            )

    def _new(self, plan: Plan) -> Entry | None:
        entry = self.study.entry(plan)
        entry.gate = candidates.gate_of(plan, self.gates) if entry.gate is None else entry.gate
        if entry in self.racing or entry.state != IN:
            return None
        self.racing.append(entry)
        return entry

    def _is_beaten(self, entry: Entry) -> bool:
        """Whether it could not win though it needed no more epochs than the best: so it need not be trained."""
        best = next(iter(standing(self.racing)), None)
        if entry.gate is None or best is None or best.figure is None or best.misses:
            return False
        shares = [mine / whole for mine, whole in zip(best.to_goal.values(), best.an_epoch.values(), strict=True)]
        return entry.gate * min(1.0, *shares) > best.figure.value

    def _round(self, alive: Sequence[Entry], seed: int, where: str) -> None:
        """The default and all that are in, in random order."""
        places = self.study.random.sample(range(len(alive) + 1), len(alive) + 1)
        order = [None if place == len(alive) else alive[place] for place in places]
        told = self.study.train([NONE if entry is None else entry.plan for entry in order], seed, where)
        default = told[order.index(None)]
        if not isinstance(default, Result):
            raise InputError(f"the default cannot be trained under seed {seed}: {default}")
        for entry, result in zip(order, told, strict=True):
            if entry is not None:
                self._take(entry, seed, result, default)

    def _run(self, entries: Sequence[Entry], seed: int, where: str, default: Result) -> None:
        told = self.study.train([entry.plan for entry in entries], seed, where)
        for entry, result in zip(entries, told, strict=True):
            self._take(entry, seed, result, default)

    def _take(self, entry: Entry, seed: int, result: Result | str, default: Result) -> None:
        """What came of a training."""
        goal = self.study.goal
        assert goal is not None
        if isinstance(result, Result):
            before = goal.seconds(default)
            if math.isfinite(before):
                entry.an_epoch[seed] = seconds_an_epoch(result) / seconds_an_epoch(default)
                entry.to_goal[seed] = goal.seconds(result) / before
        else:
            entry.leave(result)
        self.study.post(entry)

    def _close(self) -> None:
        for entry in close_round(self.racing, ROUNDS):
            self.study.post(entry)

    def _is_over(self, share: float) -> bool:
        return self.study.spent > share * self.study.budget
