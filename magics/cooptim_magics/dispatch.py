"""From a `%cooptim` line to the command that serves it; what Tab offers on such a line; the overview.

It reads the list of commands, and must not know how any of them does its work.
"""

from __future__ import annotations

import difflib

from IPython.core.error import UsageError

from cooptim_lab import hardware
from cooptim_lab.errors import LabError, RankFailure

from . import grammar
from .commands import COMMANDS
from .grammar import Command
from .session import Session


def dispatch(session: Session, line: str, cell: str | None) -> None:
    """Run one `%cooptim` line or `%%cooptim` cell.

    Raises
    ------
    UsageError
        For every mistake of the user's: one line.
    RankFailure
        When a rank raised or died: shown as that rank's traceback and one line.
    """
    words = grammar.split_line(line)
    if not words:
        if cell is not None:
            raise UsageError(f"%%cooptim needs a subcommand: choose one of {_with_body()}")
        print(overview())
        return
    if words[0] in ("-h", "--help"):
        print(overview())
        return
    command = find_command(words[0])
    arguments = grammar.parse(command, words[1:])
    if arguments is None:
        return
    if cell is not None and not command.body:
        raise UsageError(f"%%cooptim {command.name} takes no body: write %cooptim {line}; {_with_body()} take one")
    in_its_place = grammar.stands_for_body(arguments)
    if cell is not None and in_its_place:
        raise UsageError(f"{in_its_place} stands in a body's place: write %cooptim {line}, without a body")
    if cell is None and command.needs_body and not in_its_place:
        raise UsageError(
            f"%cooptim {command.name} needs a body: write %%cooptim {line} and what it {command.body} below"
        )
    try:
        command.handler(session, arguments, cell)
    except RankFailure:
        raise
    except LabError as error:
        # A subclass of UsageError would print a whole traceback: it must be this very class.
        raise UsageError(str(error)) from None


def overview() -> str:
    """One screen: this machine in a line, the commands, what to try next."""
    typed = [(f"{'%%' if c.needs_body else '%'}cooptim {c.name}", c.help) for c in COMMANDS.values()]
    width = max(len(command) for command, _ in typed)
    lines = [f"  {command.ljust(width)}  {help}" for command, help in typed]
    return "\n".join(
        [
            f"cooptim_lab on {hardware.summary(hardware.detect())}",
            "",
            *lines,
            "",
            "Try first:  %cooptim compare          the built-in digits, three ways, one table",
            "then:       %cooptim lab              sliders for workers and N",
            "            %%cooptim task            your own model and data",
            "Every command explains itself:  %cooptim subnets --help",
        ]
    )


def find_command(name: str) -> Command:
    """A subcommand by its name.

    Raises
    ------
    UsageError
        Naming the nearest one, or all.
    """
    if name in COMMANDS:
        return COMMANDS[name]
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}"
    raise UsageError(f"%cooptim has no {name!r}: {hint}")


def complete(text_until_cursor: str) -> list[str]:
    """What may come next on a line: subcommands, or what the subcommand takes."""
    words = text_until_cursor.split()
    if not words:
        return []
    typing = "" if text_until_cursor[-1].isspace() else words.pop()
    if not words:
        return []
    if len(words) == 1:
        return [name for name in COMMANDS if name.startswith(typing)]
    command = COMMANDS.get(words[1])
    return [] if command is None else grammar.complete(command, words[2:], typing)


def _with_body() -> str:
    return ", ".join(command.name for command in COMMANDS.values() if command.body)
