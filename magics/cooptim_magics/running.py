"""What all commands share that start a run: its options, the notebook variable it is bound to, and the wait for it.

It must not know which command that is.
"""

from __future__ import annotations

import argparse
from typing import Any

from cooptim_lab.errors import InputError
from cooptim_lab.runs.run import Run

from .grammar import Option, spec_options
from .picture import Picture
from .session import Session
from .view import RunView, watch, watch_in_background

RUNNING = (
    Option(("-o", "--out"), "bind the Run to this notebook variable", shown_as="NAME", is_variable=True),
    Option(("--bg",), "do not wait: the cell ends at once, the view goes on", kind=bool, default=False),
)
"""Of every command that starts a run."""


def given_options(session: Session, arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of the command's spec; what names a class of the notebook's is that class.

    Raises
    ------
    InputError
        When it names none that would do.
    """
    given = spec_options(arguments)
    for option in arguments.command.options:
        value = given.get(option.name)
        if option.takes_class and value not in option.choices:
            found = session.shell.user_ns.get(value)
            if not isinstance(found, type) or not hasattr(found, option.takes_class):
                kinds = ", ".join(option.choices)
                raise InputError(
                    f"{option.flags[-1]} = {value!r}: choose one of {kinds}, or name a class of this notebook that "
                    f"has a method {option.takes_class}"
                )
            given[option.name] = found
    return given


def follow(session: Session, run: Run[Any], arguments: argparse.Namespace, *, has_chart: bool = True) -> Picture | None:
    """Bind, show and await a run: its whole picture, or None where it goes on in the background.

    Raises
    ------
    Interrupted, LabError
        As `view.watch`.
    """
    session.runs[run.id] = run
    if arguments.out:
        session.shell.user_ns[arguments.out] = run
    view = RunView(run, has_chart=has_chart)
    if arguments.bg:
        watch_in_background(view)
        return None
    watch(view)
    return Picture.of(run.title, run.log.since(0))
