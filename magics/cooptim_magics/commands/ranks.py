"""`ranks`: a cell that runs on every rank."""

from __future__ import annotations

import argparse

from cooptim_lab import ways
from cooptim_lab.errors import InputError

from ..grammar import Command, Option
from ..running import RUNNING, follow
from ..session import Session


def run_on_ranks(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """The body on every rank; then the value of its last expression, by rank."""
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
    ),
    body="runs on every rank",
    needs_body=True,
)
