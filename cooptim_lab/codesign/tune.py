"""The study `tune`: which plan trains a task soonest to the same score on this machine, and the proof of it.

In this order: the default is trained over seeds, which sets the goal; a moment of every plan (`gates`); the race of
those that may win (`racing`); fresh paired trainings of the winner, of the best that one process can do with the
default's own steps, and of the winner with each lever left out (`proof`). The proof is the headline: of all plans raced
the winner was lucky too.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import InputError, LabError, RunStopped
from ..levers import Lever, Plan
from ..levers.lever import KINDS
from ..levers.plan import NONE, read_kinds
from ..options import option
from ..ranks.pool import RankPool
from ..runs.events import Event, Note, Phase, Progress, Raced
from ..runs.result import Result
from ..runs.run import Run
from ..studies.quiet import Surroundings, disturbs, throttled
from ..studies.rounds import run_tell_pid
from ..studies.study import Study
from ..task import Task
from ..training.spec import Spec, make_spec
from .answers import Answers
from .asked import run_measure_inference, run_survey
from .candidates import THREADS
from .gating import Gating
from .goal import Goal, read_allowance, set_goal
from .proof import Proof
from .race import IN, OUT, WON, Entry, choose, standing
from .racing import Racing
from .trainer import Trainer
from .tuning import Part, Tuning

GOAL_SEEDS, FEWEST_GOAL_SEEDS = 5, 3
"""Trainings of the default that set the goal: fewer where five would take `GOAL_SHARE` of the budget."""
GOAL_SHARE = 0.15
"""Of the budget, as long as the default may be trained for its goal."""
NEEDED = 8
"""Trainings of the default that a budget must have room for: three for the goal, one to race, and the proof."""


@dataclass(frozen=True, kw_only=True)
class TuneSpec(Spec):
    """How to run, chosen by what this machine can do, and proved."""

    way: ClassVar[str] = "tune"
    budget: float = option(60.0, "seconds that it may take", at_least=0.1)
    keep_accuracy: str = option(
        "0.5%", "of the default's held-out accuracy (else loss), what may be lost", shown_as="PART"
    )
    levers: str = option("", "only these, as threads,fused,batch,lr; else all that apply", shown_as="LEVERS")

    def __post_init__(self) -> None:
        super().__post_init__()
        read_allowance(self.keep_accuracy)
        read_kinds(self.levers)
        if self.workers != 1:
            raise InputError(f"workers = {self.workers}: which are best is found; leave it out")


def tune(task: Task | None = None, *, pool: RankPool | None = None, **options: Any) -> Run[Tuning]:
    """Choose how to train a task from what this machine can do, and prove it: P = T_c/T_p to the same score.

    Parameters
    ----------
    task
        What to train; the built-in digits when left out.
    pool
        The ranks to use; this process's own when left out.
    **options
        The fields of `TuneSpec`: budget, keep_accuracy, levers, epochs, batch, seed.

    Returns
    -------
    Run
        `run.wait()` gives a `Tuning`: its `plan` is what `train(task, plan=...)` takes. Stopped early it has the best
        plan so far, unproved.

    Raises
    ------
    InputError
        For an option that does not exist or a value out of bounds; from `run.wait`, for a budget that is too small,
        with what it needs.
    """
    run: Run[Any] = Tune(task, make_spec(TuneSpec, options), pool).start()
    return run


class Tune(Study[Any, TuneSpec]):
    """One tuning, on its thread."""

    def __init__(self, task: Task | None, spec: TuneSpec, pool: RankPool | None) -> None:
        super().__init__(task, spec, pool, 1)
        self.around = Surroundings(is_here=self.pool.launch.is_here)
        self.entries: dict[str, Entry] = {}
        self.tuning = Tuning(batch=spec.batch, epochs=spec.epochs)
        self.kinds = self._kinds()
        self.seed, self.batch, self.budget = spec.seed, spec.batch, spec.budget
        self.random = random.Random(spec.seed)
        self._began, self._is_begun = time.monotonic(), False
        self.defaults: dict[int, Result] = {}
        self.goal: Goal | None = None

    def _kinds(self) -> list[type[Lever]]:
        names = read_kinds(self.spec.levers)
        return [kind for name, kind in KINDS.items() if not names or name in names]

    @property
    def rows(self) -> list[Any]:
        return [entry for entry in self.entries.values() if entry.to_goal]

    def untrained(self) -> list[Entry]:
        """Entries that are in, and were not trained."""
        return [entry for entry in self.entries.values() if entry.state == IN and not entry.to_goal]

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    def measure(self) -> None:
        self.around.ranks = self.ask_one(run_tell_pid, is_cooperative=False)
        self.around.await_quiet(self._wait)
        self.around.begin()
        self._began, self._is_begun = time.monotonic(), True
        self._set_goal()
        found = self._survey()
        gating = Gating(self, self.ask_one, self._trainer.spec_of(NONE, self.seed))
        if self.pool.launch.is_here:
            gating.foresee(found["optimizer"])
        self.tuning.fast, gates = gating.pass_gates(found["levers"])
        Racing(self, found["levers"], self.tuning.fast, gates).carry()
        winner, tied = choose(self.rows) if standing(self.rows) else (self.entry(NONE), [])
        winner.state = WON
        self.post(winner)
        self.tuning.choose(winner, tied)
        self._say_what_came_of_the_race()
        self._let_it_answer(winner.plan)
        Proof(self, winner.plan, self._tuned()).carry()
        self._judge_the_machine()

    # What the default reaches.

    def _set_goal(self) -> None:
        began = time.monotonic()
        seeds = range(self.spec.seed, self.spec.seed + GOAL_SEEDS)
        results = []
        for number, seed in enumerate(seeds):
            (result,) = self.train([NONE], seed, f"for the goal, seed {seed}")
            if isinstance(result, str):
                raise InputError(result)
            results.append(result)
            took = (time.monotonic() - began) / (number + 1)
            if number == 0 and took * NEEDED > self.spec.budget:
                raise InputError(self._too_small(took))
            if number + 1 >= FEWEST_GOAL_SEEDS and took * (number + 2) > GOAL_SHARE * self.spec.budget:
                break
        self.defaults = dict(zip(seeds, results, strict=False))
        self.goal = set_goal(results, read_allowance(self.spec.keep_accuracy))
        self.tuning.set_goal(self.goal, results)
        name = results[0].metric_name
        if name not in ("accuracy", "loss"):
            self.say(f"judged by the held-out loss: whether a higher {name} is better is not known")
        self.say(f"the goal is {self.goal}: the median of {len(results)} seeds, less {self.spec.keep_accuracy}")
        missed = sum(math.isinf(self.goal.seconds(result)) for result in results)
        if missed:
            self.doubt(f"the default itself does not reach it on {missed} of {len(results)} seeds: these say nothing")
        if missed == len(results):
            raise InputError(f"the default never reaches its own goal, {self.goal}: give more epochs")

    def _too_small(self, seconds: float) -> str:
        needed = math.ceil(seconds * NEEDED)
        said = f"budget = {self.spec.budget:g}: a training of {self.task.name} takes {seconds:.2g} s here, and tuning"
        return f"{said} {needed} s at the least; give --budget {needed}, or fewer epochs"

    # What may be faster.

    def _survey(self) -> dict[str, Any]:
        self.phase("which levers apply")
        found = self.ask_one(run_survey, spec=self._trainer.spec_of(NONE, self.seed), kinds=self.kinds)[0]
        if found["why_not"]:
            said = "; ".join(f"{text}: {why}" for text, why in found["why_not"].items())
            self.say(f"not tried: {said}")
        self.pool.reserve(found["cpus"])
        return found

    def _tuned(self) -> Plan:
        """The best that one process does with the default's own steps: threads and a fused optimizer."""
        return Plan(tuple(lever for lever in self.tuning.fast.levers if lever.name in ("threads", "fused")))

    def _say_what_came_of_the_race(self) -> None:
        left = [entry for entry in self.entries.values() if entry.state == OUT]
        raced = self.rows
        self.say(f"{len(self.entries)} plans were looked at, {len(raced)} trained, {len(left)} thrown out")

    def _let_it_answer(self, plan: Plan) -> None:
        """Its network in smaller numbers, after training; of shards it is the default's network."""
        self.phase("its answers in smaller numbers")
        alone = NONE if plan.way == "sharded" else plan.without("workers", THREADS)
        spec = self._trainer.spec_of(alone, self.seed)
        try:
            rows = self.ask_one(run_measure_inference, spec=spec)[0]
        except RunStopped:
            raise
        except LabError as error:
            self.say(f"its answers in smaller numbers could not be measured: {error}")
            return
        self.tuning.answers = [Answers.from_row(row) for row in rows]
        for each in self.tuning.answers:
            if each.figure is None:
                self.say(each.sentence)

    def _judge_the_machine(self) -> None:
        seen = self.around.so_far()
        if said := throttled([seen]):
            self.doubt(said)
        if said := disturbs(seen):
            self.doubt(f"busy: {said}: P may be off, run it when the machine is quiet")

    # What all parts do.

    def entry(self, plan: Plan) -> Entry:
        """What is known of a plan."""
        return self.entries.setdefault(str(plan), Entry(plan))

    def train(self, plans: Sequence[Plan], seed: int, where: str) -> list[Result | str]:
        """Trainings in this order until the goal, as soon as there is one; see `Trainer.train`."""
        until = 0.0 if self.goal is None else max(0.0, self.goal.value)  # of a loss below 0, all epochs
        return self._trainer.train(plans, seed, until, where)

    @property
    def _trainer(self) -> Trainer:
        spec = self.spec
        return Trainer(self.task, self.pool, spec.epochs, spec.batch, self.ask_one, self.await_child, self.phase)

    def post(self, known: Entry | Part) -> None:
        """What is known of a plan by now."""
        self.run.post(Raced(row=known.summary()))

    def phase(self, text: str) -> None:
        """What is done now, and what is left of the budget."""
        budget = self.spec.budget
        left = max(0.0, budget - self.spent)
        self.run.post(Phase(text=f"{text} · {left:.0f} s of {budget:g} s left"))
        self.run.post(Progress(done=round(1000 * min(1.0, self.spent / budget)), total=1000))

    def say(self, text: str) -> None:
        self.run.post(Note(text=text, is_doubt=False))

    def doubt(self, text: str) -> None:
        self.run.post(Note(text=text))

    def _wait(self, said: str) -> None:
        if self.run.stop_level:
            raise RunStopped("stopped")
        self.run.post(Phase(text=f"{said}: waiting for quiet"))

    def ask_one(self, program: Callable[..., Any], *, is_cooperative: bool = True, **arguments: Any) -> list[Any]:
        """What a program returns on the one rank, in a list."""
        if program is not run_tell_pid:
            arguments["task"] = self.task
        return self.ask_all(program, 1, is_cooperative=is_cooperative, **arguments)

    def forward(self, event: Event) -> None:
        """Of what a rank tells, what is done now and what is noted."""
        if isinstance(event, Phase) and self._is_begun and event.text != "running":
            self.phase(event.text)
        else:
            self.pass_on(event)

    def _finish(self, state: str) -> None:
        if self.tuning.winner is None and standing(self.rows):  # stopped: the best so far
            self.tuning.choose(*choose(self.rows))
        tuning: Any = self.tuning
        self.run.finish(tuning, state=state, summary=tuning.summary())
