"""Trainings of a tuning: those in one process in one job, which reads and examines the task once; others one by one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import LabError, RankFailure, RunStopped
from ..levers import Plan
from ..ranks.pool import RankPool
from ..runs.result import Result
from ..runs.run import Run
from ..task import Task
from ..training.planned import under_plan
from ..training.spec import Baseline, Spec
from ..ways import launch
from .asked import run_trainings


@dataclass(frozen=True)
class Trainer:
    """What is trained, and by whom.

    Attributes
    ----------
    epochs, batch
        Of the default.
    ask
        A program and its arguments -> what the one rank returns of it, in a list.
    await_child
        A run -> what it comes to.
    phase
        Is told what is done.
    """

    task: Task
    pool: RankPool
    epochs: int
    batch: int
    ask: Callable[..., list[Any]]
    await_child: Callable[[Run[Any]], Any]
    phase: Callable[[str], None]

    def train(self, plans: Sequence[Plan], seed: int, until: float, where: str) -> list[Result | str]:
        """Trainings in this order, until a score; of each its result, or why there is none.

        Those in one process share one reading of the task.

        Raises
        ------
        LabError
        """
        told: list[Result | str] = []
        for is_alone, group in itertools.groupby(plans, key=lambda plan: self.spec_of(plan, seed).workers == 1):
            these = list(group)
            specs = [self.spec_of(plan, seed, until) for plan in these]
            titles = [f"{where}: {plan or 'the default'}" for plan in these]
            told += self._in_one(specs, titles) if is_alone else map(self._on_ranks, specs, titles)
        return told

    def _in_one(self, specs: Sequence[Spec], titles: Sequence[str]) -> list[Result | str]:
        try:
            found = self.ask(run_trainings, specs=specs, titles=titles)[0]
        except RankFailure:  # one of them has taken the rank with it: which, is seen when each has a job of its own
            return list(map(self._on_ranks, specs, titles))
        if len(found) < len(specs):
            raise RunStopped("stopped")
        return [why if result is None else result for result, why in found]

    def _on_ranks(self, spec: Spec, title: str) -> Result | str:
        self.phase(title)
        child = launch(self.task, spec, pool=self.pool, record=False)
        try:
            result: Result = self.await_child(child)
        except RunStopped:
            raise
        except LabError as error:  # it diverged, or the way does not take this network: others go on
            return str(error)
        if result.state != "done":
            raise RunStopped("stopped")
        return result

    def spec_of(self, plan: Plan, seed: int, until: float = 0.0) -> Any:
        """What is trained."""
        return under_plan(Baseline(epochs=self.epochs, batch=self.batch, seed=seed, until=until, plan=plan))
