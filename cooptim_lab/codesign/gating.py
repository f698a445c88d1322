"""What is thrown out before the race: by prediction, then by a moment of each plan beside the default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..costs import known
from ..costs.work import Step
from ..levers import Lever, Plan
from ..studies.ceilings import run_measure_task
from ..training.spec import Baseline
from . import candidates
from .asked import run_pass_gates
from .foretelling import foretell
from .race import IN
from .stage import Carrier

HOPELESS = 2.0
"""Times the default's epoch: a plan that is predicted to take longer is not measured. Predictions are off by 1.5 at
times."""


class Gating:
    """Of a study, which asks a rank by `ask`; `spec` is the default's."""

    def __init__(self, study: Carrier, ask: Callable[..., list[Any]], spec: Baseline) -> None:
        self.study, self.ask, self.spec = study, ask, spec
        self._measured: dict[str, tuple[float | None, str]] = {}
        self._predict: Callable[[Sequence[Plan]], dict[str, float]] = lambda plans: {}

    def foresee(self, optimizer: str) -> None:
        """From now on, plans are predicted, where it is known what the machine can do."""
        ceilings = known.known()
        if ceilings is None:
            self.study.say("not predicted: what this machine can do is not known; %cooptim hardware --measure finds it")
            return
        step = Step.from_summary(self.ask(run_measure_task, batch=self.spec.batch)[0])
        self._predict = partial(foretell, step=step, ceilings=ceilings, optimizer=optimizer)

    def pass_gates(self, levers: Sequence[Lever]) -> tuple[Plan, dict[str, float]]:
        """The levers that change nothing that is learned, put together; and by plan, what was measured."""
        self.study.phase("a moment of each lever")
        gates = self._gate(candidates.singles(levers))
        fast = candidates.put_together(levers, gates)
        self.study.phase("a moment of each plan")
        return fast, gates | self._gate(candidates.combined(levers, fast, gates))

    def _gate(self, plans: Sequence[Plan]) -> dict[str, float]:
        """Of each plan that could be measured, the seconds of an epoch over the default's."""
        predicted = self._predict(plans)
        for plan in plans:
            entry = self.study.entry(plan)
            entry.predicted = predicted.get(str(plan))
            if entry.predicted is not None and entry.predicted > HOPELESS:
                entry.leave(f"an epoch is predicted to take {entry.predicted:.1f} of the default's")
                self.study.post(entry)
        plans = [plan for plan in plans if self.study.entry(plan).state == IN]
        if not plans:
            return {}
        told = self._measure([plan.paced for plan in plans])
        measured = [told[str(plan.paced)] for plan in plans]
        for plan, (ratio, why) in zip(plans, measured, strict=True):
            entry = self.study.entry(plan)
            entry.gate = ratio
            if ratio is None:
                entry.leave(why)
            elif ratio > candidates.WORTH:
                entry.leave(f"an epoch takes {ratio:.2f} of the default's")
            self.study.post(entry)
        return {str(plan): ratio for plan, (ratio, _) in zip(plans, measured, strict=True) if ratio is not None}

    def _measure(self, plans: Sequence[Plan]) -> dict[str, tuple[float | None, str]]:
        """Of each, once, the seconds of an epoch over the default's, or why there are none."""
        once = {str(plan): plan for plan in plans if str(plan) not in self._measured}
        if once:
            asked = {"spec": self.spec, "plans": list(once.values()), "seed": self.spec.seed}
            self._measured |= zip(once, self.ask(run_pass_gates, **asked)[0], strict=True)
        return self._measured
