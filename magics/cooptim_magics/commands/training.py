"""`train`, `subnets`, `sharded`, `resume`: one training of the body's task, of the current one, or of one on record."""

from __future__ import annotations

import argparse
from typing import Any

from cooptim_lab import ways
from cooptim_lab.runs.run import Run
from cooptim_lab.studies.seeds import compare_seeds
from cooptim_lab.training.spec import Baseline, Sharded, Subnets, make_spec

from ..body import task_from_body
from ..grammar import Command, Option, from_spec
from ..running import RUNNING, follow, given_options
from ..session import Session
from ..view import show_result


def train(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """One run of the body's task, or of the current one."""
    task = session.current_task if cell is None else task_from_body(session.shell, cell)
    given = given_options(session, arguments)
    _show(session, ways.launch(task, make_spec(arguments.command.spec, given)), arguments)


def train_subnets(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """The same; with --seeds so many of them, beside the original."""
    if arguments.seeds is None:
        train(session, arguments, cell)
        return
    task = session.current_task if cell is None else task_from_body(session.shell, cell)
    run = compare_seeds(task, seeds=arguments.seeds, **given_options(session, arguments))
    picture = follow(session, run, arguments)
    if picture is not None:
        show_result(picture)


def resume(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """Go on with a run on record."""
    _show(session, ways.resume(arguments.id), arguments)


def _show(session: Session, run: Run[Any], arguments: argparse.Namespace) -> None:
    """Follow one training; then what came of it, in a line or two, and where the time went."""
    picture = follow(session, run, arguments)
    if picture is not None:
        print(f"run {run.id}: {picture.sentence}")
        show_result(picture)


TASK_BODY = "defines model and data (and if wanted loss, optimizer, metric, subnet) for this run"

TRAIN = Command(
    "train",
    "the network in one process: as it is, or as a plan has it",
    train,
    options=(*from_spec(Baseline), *RUNNING),
    body=TASK_BODY,
    spec=Baseline,
)
SUBNETS = Command(
    "subnets",
    "N small networks, trained at the same time, fused: y = 1/N Σ f_i(x)",
    train_subnets,
    options=(
        *from_spec(Subnets),
        Option(("--seeds",), "so many seeds, and a table beside the original", kind=int, at_least=2),
        *RUNNING,
    ),
    body=TASK_BODY,
    spec=Subnets,
)
SHARDED = Command(
    "sharded",
    "the data over M ranks, aggregated at a server: min_w 1/M Σ L(θ_i, y_i)",
    train,
    options=(*from_spec(Sharded), *RUNNING),
    body=TASK_BODY,
    spec=Sharded,
)
RESUME = Command(
    "resume",
    "go on with a run that made checkpoints, from the newest of them",
    resume,
    options=(
        Option(("id",), "which run (%cooptim runs lists them)", shown_as="ID", is_optional=False),
        *RUNNING,
    ),
)
