"""`speedup`, `compare`, `costs`, `simulate`: many runs of the current task, and the one table in which they end."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from IPython.display import display

from cooptim_lab.data.datasets import digits
from cooptim_lab.hardware import allowed_cpus
from cooptim_lab.runs.run import Run
from cooptim_lab.studies.compare import Comparison, compare
from cooptim_lab.studies.costs import CostSpec, measure_costs
from cooptim_lab.studies.simulate import SimulateSpec, measure_and_simulate
from cooptim_lab.studies.speedup import SpeedupStudy, measure_speedup

from ..grammar import Command, Option, from_spec
from ..picture import Picture
from ..running import RUNNING, follow, given_options
from ..session import Session
from ..sheets import disturbed
from ..simulating import real_curves
from ..tables import step_parts
from ..view import show_result
from ..whatif import WhatIf


def study_speedup(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """One way at several numbers of workers."""
    _study(session, arguments, partial(measure_speedup, way=arguments.way))


def study_ways(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """All ways beside each other; the fourth by the plan that is given, or that `tune` has found for this task."""
    found = session.found_plan
    if not arguments.plan and found:
        arguments.plan = found
        print(f"co-designed by the plan that tune has found: {found}")
    _study(session, arguments, compare)


def study_costs(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """A step by each way to aggregate, predicted and measured."""
    _study(session, arguments, measure_costs)


def study_simulation(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """Every way on a machine that is not here, put together from what is measured on this one."""
    picture = _study(session, arguments, measure_and_simulate)
    if picture is not None and picture.sampled is not None and not disturbed(picture):
        spec = SimulateSpec(**given_options(session, arguments))
        real = real_curves(_trained(session, spec.batch), picture.sampled.alone)
        display(WhatIf(picture.title, picture.sampled, spec, allowed_cpus(), real).bundle(), raw=True)


def _trained(session: Session, batch: int) -> list[tuple[str, int, float]]:
    """What this notebook has trained of the current task, by shards with such a batch: way, workers, seconds a step."""
    name, seen = session.current_task.name if session.current_task else digits().name, []
    for run in session.runs.values():
        picture = Picture.of(run.title, run.log.since(0))
        told = picture.options
        is_alike = picture.kind == "sharded" and told["batch"] == batch and run.title.endswith(f": {name}")
        is_plain = is_alike and told["compress"] == "none" and not told["plan"]
        if is_plain and run.state == "done" and picture.spent:
            longest = max(sum(step_parts(rank).values()) for rank in picture.spent.values())
            seen.append((str(told["aggregate"]), len(picture.spent), longest))
    return seen


def _study(session: Session, arguments: argparse.Namespace, start: Callable[..., Run[Any]]) -> Picture | None:
    """The live figure, then the table with its doubts; its picture, where it was waited for."""
    run = start(session.current_task, **given_options(session, arguments))
    picture = follow(session, run, arguments)
    if picture is not None:
        show_result(picture)
    return picture


SPEEDUP = Command(
    "speedup",
    "measure one way at several numbers of workers beside the network as it is",
    study_speedup,
    options=(
        Option(("way",), "what to measure", choices=("subnets", "sharded"), is_optional=False),
        *from_spec(SpeedupStudy),
        *RUNNING,
    ),
    spec=SpeedupStudy,
)
COMPARE = Command(
    "compare",
    "the current task each way, one table: seconds, P = T_c/T_p, accuracy",
    study_ways,
    options=(*from_spec(Comparison), *RUNNING),
    spec=Comparison,
)
COSTS = Command(
    "costs",
    "a step by server, allreduce, shared, local: predicted from α and β beside measured",
    study_costs,
    options=(*from_spec(CostSpec), *RUNNING),
    spec=CostSpec,
)
SIMULATE = Command(
    "simulate",
    "what each way would take on more hosts, cores and workers, with an interval",
    study_simulation,
    options=(*from_spec(SimulateSpec), *RUNNING),
    spec=SimulateSpec,
)
