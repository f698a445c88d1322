"""`ranks`: a cell, or a program from disk, that runs on every rank."""

from __future__ import annotations

import argparse
from typing import Any

from cooptim_lab import ways
from cooptim_lab.errors import InputError
from cooptim_lab.runs.run import Run

from ..grammar import Command, Option
from ..running import RUNNING, follow
from ..session import Session


def run_on_ranks(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """The body, or a program from disk, on every rank; then the value of the body's last expression, by rank."""
    if arguments.file is not None:
        follow(session, _start_file(arguments), arguments, has_chart=False)
        return
    pushed = [name.strip() for name in arguments.push.split(",")] if arguments.push else []
    for name in pushed:
        if name not in session.shell.user_ns:
            raise InputError(f"--push {name}: the notebook has no variable of that name")
    run = ways.run_cell(
        cell or "",
        workers=arguments.workers,
        push={name: session.shell.user_ns[name] for name in pushed},
        only=arguments.only or (),
        timeout=arguments.timeout,
    )
    if follow(session, run, arguments, has_chart=False) is not None:
        for rank, value in enumerate(run.result or []):
            if value is not None:
                print(f"[{rank}] {value!r}")


def _start_file(arguments: argparse.Namespace) -> Run[list[Any]]:
    if arguments.push or arguments.only:
        raise InputError("--file runs a program as mpiexec would: --push and --only are for a body")
    path, *given = arguments.file
    return ways.run_file(path, given, workers=arguments.workers, timeout=arguments.timeout)


RANKS = Command(
    "ranks",
    "run the body on every rank; comm, rank and size exist, names persist between cells",
    run_on_ranks,
    options=(
        Option(("--workers",), "how many ranks", kind=int, default=2, at_least=1),
        Option(("--only",), "the ranks that run it, as 0,2; the others keep still", kind=tuple[int, ...], at_least=0),
        Option(("--push",), "notebook variables to send to the ranks before, as x,y", shown_as="NAME,NAME,..."),
        Option(("--timeout",), "seconds after which it is interrupted", kind=int, at_least=1),
        *RUNNING,
        Option(
            ("--file",),
            "a program from disk in place of a body, and all that is to be given to it: the last option",
            is_body=True,
            shown_as="PROGRAM ...",
        ),
    ),
    body="runs on every rank",
    needs_body=True,
)
