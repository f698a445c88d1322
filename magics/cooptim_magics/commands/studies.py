"""`speedup`, `compare`, `costs`, `simulate`: many runs of the current task, and the one table in which they end."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

from cooptim_lab.runs.run import Run
from cooptim_lab.studies.compare import Comparison, compare
from cooptim_lab.studies.costs import CostSpec, measure_costs
from cooptim_lab.studies.simulate import SimulateSpec, measure_and_simulate
from cooptim_lab.studies.speedup import SpeedupStudy, measure_speedup

from ..grammar import Command, Option, from_spec
from ..running import RUNNING, follow, given_options
from ..session import Session
from ..view import show_result


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
    _study(session, arguments, measure_and_simulate)


def _study(session: Session, arguments: argparse.Namespace, start: Callable[..., Run[Any]]) -> None:
    """The live figure, then the table with its doubts."""
    run = start(session.current_task, **given_options(session, arguments))
    picture = follow(session, run, arguments)
    if picture is not None:
        show_result(picture)


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
