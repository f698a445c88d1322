"""`pool`: the MPI ranks that stand ready."""

from __future__ import annotations

import argparse

from IPython.display import display

from cooptim_lab import hardware
from cooptim_lab.errors import InputError
from cooptim_lab.ranks.pool import RankPool
from cooptim_lab.ranks.shared import close_shared_pool, share_pool, shared_pool

from ..grammar import Command, Option
from ..session import Session
from ..tables import Table
from ..words import duration


def manage_pool(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """The ranks: start, stop, status."""
    places = {name: getattr(arguments, name) for name in ("hosts", "launcher", "interface")}
    for name, value in {"workers": arguments.workers, **places}.items():
        if value is not None and arguments.action != "start":
            raise InputError(f"--{name} goes with start: %cooptim pool start --{name} {value}")
    if arguments.launcher is not None:
        check_braces(session, arguments.launcher, ("workers", "hosts") if arguments.hosts else ("workers",))
    if arguments.action == "stop":
        stop_pool()
    elif any(places.values()):
        start_pool_at(arguments.workers, places)
    elif arguments.action == "start":
        shared_pool().reserve(arguments.workers or shared_pool().workers)
        shared_pool().start()
    show_pool()


def check_braces(session: Session, launcher: str, needed: tuple[str, ...]) -> None:
    """Refuse a launcher whose places IPython has filled in, as it does with names of the notebook's variables."""
    for name in needed:
        place = f"{{{name}}}"
        if place not in launcher and name in session.shell.user_ns:
            raise InputError(
                f"--launcher {launcher}: IPython has put the notebook's variable {name} where {place} stood; "
                f"double the braces: {{{place}}}"
            )


def start_pool_at(workers: int | None, places: dict[str, str | None]) -> None:
    """Ranks elsewhere or by another launcher, for all runs until `pool stop`; once there, they replace those before."""
    fresh = RankPool(workers, **places)
    try:
        fresh.start()
    except BaseException:  # an interrupt too: what was there before stays in use
        fresh.close()
        raise
    share_pool(fresh)


def stop_pool() -> None:
    """Let the ranks leave; the next ones will be this machine's."""
    shared_pool().stop()
    if not shared_pool().launch.is_here:
        close_shared_pool()


def show_pool() -> None:
    """A table of the ranks."""
    rows = shared_pool().status()
    if not rows:
        print("no ranks are running; the first run starts them, or %cooptim pool start --workers 4")
        return
    cells = [["rank", "host", "pid", "state", "memory (PSS)", "threads", "up"]]
    for row in rows:
        told = [
            "unknown" if row["memory"] is None else hardware.size(row["memory"]),
            "unknown" if row["threads"] is None else str(row["threads"]),
        ]
        cells.append([str(row["rank"]), row["host"], str(row["pid"]), row["state"], *told, duration(row["seconds"])])
    display(Table(cells, [rows[0]["library"]]))


POOL = Command(
    "pool",
    "the MPI ranks that stand ready",
    manage_pool,
    options=(
        Option(("action",), "what to do", default="status", choices=("status", "start", "stop")),
        Option(("--workers",), "how many ranks to start", kind=int, at_least=1),
        Option(
            ("--hosts",),
            "where, and how many each has room for, as a:4,b:4; this machine when left out",
            shown_as="HOST:N,...",
        ),
        Option(("--launcher",), "what starts them in mpiexec's place, as 'srun -n {workers}'", shown_as="COMMAND"),
        Option(("--interface",), "the network interface that the hosts share; found when left out", shown_as="NAME"),
    ),
)
