"""What a panel's controls ask for: a way, and the options that it takes; started as a run, or written as a cell.

Both come from one place, so that the line does what the button does. It must not know how controls look.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from cooptim_lab import ways
from cooptim_lab.codesign.tune import TuneSpec, tune
from cooptim_lab.levers.plan import Plan
from cooptim_lab.runs.run import Run
from cooptim_lab.studies.compare import Comparison, compare
from cooptim_lab.studies.speedup import SpeedupStudy, measure_speedup
from cooptim_lab.task import Task
from cooptim_lab.training.spec import Baseline, Sharded, Spec, Subnets, make_spec

from .grammar import from_spec

COMMON = ("epochs", "batch", "seed")
CODESIGNED = "co-designed"


@dataclass(frozen=True)
class Way:
    """What can be chosen: the command that does it, its spec, what starts it, and the controls that it obeys."""

    command: str
    spec: type[Spec]
    start: Callable[..., Run[Any]]
    takes: tuple[str, ...]


def _train(kind: type[Spec], task: Task, **given: Any) -> Run[Any]:
    return ways.launch(task, make_spec(kind, given))


TUNE = Way("tune", TuneSpec, tune, (*COMMON, "budget"))
PLANNED = Way("train", Baseline, partial(_train, Baseline), (*COMMON, "plan"))
WAYS = {
    "as it is": Way("train", Baseline, partial(_train, Baseline), COMMON),
    "sub-networks": Way(
        "subnets", Subnets, partial(_train, Subnets), ("workers", "subnets", *COMMON, "split", "fuse", "data")
    ),
    "sharded, central server": Way(
        "sharded", Sharded, partial(_train, Sharded), ("workers", *COMMON, "aggregate", "shards")
    ),
    CODESIGNED: TUNE,
    "compare all three": Way("compare", Comparison, compare, ("workers", "subnets", *COMMON, "aggregate", "repeats")),
    "speedup of shards": Way(
        "speedup sharded", SpeedupStudy, measure_speedup, ("workers", *COMMON, "aggregate", "repeats")
    ),
}


@dataclass(frozen=True)
class Asked:
    """A way with its options.

    Parameters
    ----------
    way
        One of `WAYS`, or what stands for it.
    given
        By name, the options that it takes.
    """

    way: Way
    given: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, values: Mapping[str, Any], plan: Plan | None = None) -> Asked:
        """What the controls say.

        Parameters
        ----------
        name
            Of the way.
        values
            Of all controls; those that the way has no use for are left out.
        plan
            That was found for the task: co-designed is a training by it, and without one the search for it.
        """
        way = PLANNED if name == CODESIGNED and plan else WAYS[name]
        given = {each: values[each] for each in way.takes if each in values}
        if "plan" in way.takes:
            given["plan"] = plan
        if way.spec is SpeedupStudy:
            given["workers"] = up_to(values["workers"])
        return cls(way, given)

    @property
    def line(self) -> str:
        """As it is typed, without what is so anyway."""
        words = ["%cooptim", self.way.command]
        for option in from_spec(self.way.spec):
            value = self.given.get(option.name, option.default)
            if value != option.default:
                text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                words += [option.flags[-1], shlex.quote(text)]
        return " ".join(words)

    def start(self, task: Task) -> Run[Any]:
        """Begin.

        Raises
        ------
        InputError
            For options that do not go together.
        """
        return self.way.start(task, **self.given)


def up_to(workers: int) -> tuple[int, ...]:
    """Numbers of workers to measure: 1, 2, 4, … and the last one."""
    doubled = [1 << power for power in range(workers.bit_length()) if 1 << power < workers]
    return (*doubled, workers)
