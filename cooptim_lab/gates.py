"""Gates: of each plan a moment of training steps beside the default's, before it costs a whole training. On a rank.

What is measured in 0.1 s beats what a processor says it can do. Plans of another way than one process have no gate.
"""

from __future__ import annotations

import itertools
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from .comm.context import Context
from .data.values import first_line
from .errors import InputError
from .hardware import allowed_cpus
from .levers import Lever, Plan, Seen
from .levers.plan import NONE
from .preparing.building import trained
from .preparing.prepare import Prepared, prepare
from .programs import build
from .runs.events import Progress
from .task import Task
from .training.loop import Step, batches
from .training.spec import Baseline

ROUNDS = 5
BLOCK_SECONDS = 0.008
"""Of steps in a round: of a plan, and of the default beside it."""
MOST_STEPS = 64
"""Of a block."""
BESIDE = 3
"""Plans between two blocks of the default."""
SLOW_SECONDS = 0.5
"""A plan whose first two steps take so long, and `TIMES_SLOWER` the default's, is not measured further."""
TIMES_SLOWER = 3.0


def survey(context: Context, task: Task, spec: Baseline, kinds: Sequence[type[Lever]]) -> dict[str, Any]:
    """Which levers apply to a task here, with which values, and why others do not.

    Returns
    -------
    dict
        levers: those that apply. why_not: by text, in a few words. cpus, rows (that are trained on), optimizer.

    Raises
    ------
    InputError
        Where the task does not fit, as before every training.
    """
    prepared = prepare(task, spec.batch)
    network = prepared.model(0)
    names, parameters = zip(*trained(network), strict=True)
    seen = Seen(
        network=network,
        optimizer=prepared.optimizer(parameters, names),
        x=prepared.x[: spec.batch],
        y=prepared.y[: spec.batch],
        rows=len(prepared.x),
        batch=spec.batch,
        cpus=allowed_cpus(),
    )
    levers, why_not = list[Lever](), dict[str, str]()
    for kind in kinds:
        for lever in kind.tried(seen):
            if why := lever.why_not(seen):
                why_not[str(lever)] = why
            else:
                levers.append(lever)
    optimizer = type(seen.optimizer).__name__
    return {"levers": levers, "why_not": why_not, "cpus": seen.cpus, "rows": seen.rows, "optimizer": optimizer}


class Pace:
    """Steps of a plan, made a block at a time, on tensors that were examined under the default."""

    def __init__(self, prepared: Prepared, spec: Baseline, plan: Plan) -> None:
        self.plan = plan
        batch = int(plan.options.get("batch", spec.batch))
        given = replace(prepared, task=plan.of_task(prepared.task))
        narrow = plan.options.get("narrow", 0.0)
        with plan.around():
            model, _, step_of = build(given, replace(spec, batch=batch, narrow=narrow, plan=plan), is_trial=True)
            self._step: Step[Any] = step_of(model)
        self._batches = _whole_batches(len(given.x), batch, spec.seed)
        self._steps, self.rows = 1, min(batch, len(given.x))

    def try_out(self) -> float:
        """Two steps, the first of which wakes everything; seconds a row of the second, and how many make a block."""
        with self.plan.around():
            self._step(next(self._batches))
            seconds = self._time(1)
        self._steps = max(1, min(MOST_STEPS, round(BLOCK_SECONDS / max(seconds, 1e-9))))
        return seconds / self.rows

    def take(self) -> float:
        """A block; seconds a row."""
        with self.plan.around():
            self._step(next(self._batches))  # threads and caches are as the one before has left them
            return self._time(self._steps) / self.rows

    def _time(self, steps: int) -> float:
        chosen = list(itertools.islice(self._batches, steps))
        began = time.perf_counter()
        for rows in chosen:
            self._step(rows)
        return (time.perf_counter() - began) / steps


def _whole_batches(rows: int, batch: int, seed: int) -> Iterator[torch.Tensor]:
    """Batches without end, none of them shorter than the others."""
    for epoch in itertools.count():
        yield from (part for part in batches(rows, batch, seed, epoch) if len(part) == min(batch, rows))


def pass_gates(
    context: Context, task: Task, spec: Baseline, plans: Sequence[Plan], seed: int
) -> list[tuple[float | None, str]]:
    """Of each plan the seconds of a row over the default's, the median of rounds in random order; or why there is none.

    Raises
    ------
    InputError
        Where the default itself cannot be trained.
    """
    prepared = prepare(task, spec.batch)
    default, paces = Pace(prepared, spec, NONE), dict[int, Pace]()
    usual, why = default.try_out(), dict[int, str]()
    for place, plan in enumerate(plans):
        try:
            pace = Pace(prepared, spec, plan)
            took = pace.try_out()
        except InputError as error:
            why[place] = str(error)
        except Exception as error:  # noqa: BLE001 - what torch cannot do here may raise anything
            why[place] = f"it cannot make a step here ({first_line(error)})"
        else:
            if took * pace.rows > SLOW_SECONDS and took > TIMES_SLOWER * usual:
                why[place] = f"a row takes {took / usual:.1f} times as long"
            else:
                paces[place] = pace
        if context.stopping():
            break
    ratios: dict[int, list[float]] = {place: [] for place in paces}
    order, generator = list(paces), random.Random(seed)
    for number in range(ROUNDS):
        generator.shuffle(order)
        before = default.take()
        for start in range(0, len(order), BESIDE):
            blocks = {place: paces[place].take() for place in order[start : start + BESIDE]}
            after = default.take()
            for place, seconds in blocks.items():
                ratios[place].append(2 * seconds / (before + after))
            before = after
        context.report(Progress(rank=context.rank, done=number + 1, total=ROUNDS))
        if context.stopping():
            break
    found = {place: statistics.median(each) for place, each in ratios.items() if each}
    return [(found.get(place), why.get(place, "")) for place in range(len(plans))]
