"""The grammar: what a command and an option are, and how they become parser, help and completion.

It must know no single command. What a way of training or a study can be told comes from its spec's fields in the
engine (`from_spec`); a command adds what only a face has. Parsing ends in a namespace or in one `UsageError` line.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import itertools
import keyword
import shlex
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, get_type_hints

from IPython.core.error import UsageError

from cooptim_lab.errors import InputError
from cooptim_lab.options import check_option
from cooptim_lab.training.spec import Spec

WIDTH = 92  # what a notebook's output shows without breaking lines
LONG_USAGE = 200  # characters: no longer a line that one reads
GLUE = "\x00"  # holds an option and its value together where a line is broken


@dataclass(frozen=True)
class Option:
    """One option of a subcommand, or (without a dash in front) one word that follows it."""

    flags: tuple[str, ...]
    help: str
    kind: Any = str
    default: Any = None
    choices: tuple[str, ...] = ()
    at_least: float | None = None
    is_optional: bool = True
    takes_class: str = ""
    """A method: of a class of the notebook's, whose name may be given in place of a choice."""
    is_variable: bool = False
    """Whether it names a notebook variable."""
    is_body: bool = False
    """Whether it stands in a body's place: all that follows on the line is its value, words of which it needs one."""
    shown_as: str = ""
    """What stands in its place in the help, where kind and choices do not say it."""

    @property
    def is_word(self) -> bool:
        return not self.flags[0].startswith("-")

    @property
    def is_switch(self) -> bool:
        return self.kind is bool

    @property
    def name(self) -> str:
        return self.flags[-1].lstrip("-").replace("-", "_")

    def read(self, text: str) -> Any:
        """The value that was typed; refused in one line when it is out of bounds."""
        value: Any = text
        if self.is_variable and (not text.isidentifier() or keyword.iskeyword(text)):
            raise UsageError(f"{self.flags[0]} {text}: give a name that a variable may have")
        if self.takes_class and text not in self.choices and text.isidentifier():
            return text  # looked up in the notebook by whoever knows that
        if self.kind in _READERS:
            make, wanted = _READERS[self.kind]
            try:
                value = make(text)
            except ValueError:
                raise UsageError(f"{self.flags[-1]} {text}: give {wanted}") from None
        try:
            check_option("/".join(self.flags), value, self.kind, {"choices": self.choices, "at_least": self.at_least})
        except InputError as error:
            raise UsageError(str(error)) from None
        return value


_READERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    int: (int, "a whole number"),
    float: (float, "a number"),
    tuple[int, ...]: (lambda text: tuple(int(part) for part in text.split(",")), "whole numbers, e.g. 1,2,4"),
}


@dataclass(frozen=True)
class Command:
    """One subcommand."""

    name: str
    help: str
    handler: Callable[[Any, argparse.Namespace, str | None], None]
    """Is given what the notebook has, the parsed options (see `parse`) and the cell's body, or None on a line."""
    options: tuple[Option, ...] = ()
    body: str = ""
    """What a cell's body is to it; empty: it takes none."""
    spec: type[Spec] | None = None
    needs_body: bool = False


def from_spec(spec: type[Spec]) -> tuple[Option, ...]:
    """The fields of a spec as options."""
    hints = get_type_hints(spec)
    common = {item.name for item in dataclasses.fields(Spec)}
    own_first = sorted(dataclasses.fields(spec), key=lambda item: item.name in common)
    return tuple(
        Option(
            flags=(
                *((f"-{item.metadata['flag']}",) if item.metadata["flag"] else ()),
                f"--{item.name.replace('_', '-')}",
            ),
            help=item.metadata["help"],
            kind=hints[item.name],
            default=item.default,
            choices=item.metadata["choices"],
            at_least=item.metadata["at_least"],
            takes_class=item.metadata["takes_class"],
            shown_as=item.metadata["shown_as"],
        )
        for item in own_first
    )


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, by raising."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"%{self.prog}: {_plain(message, self)}")


def split_line(line: str) -> list[str]:
    """The words of a line, quotes respected.

    Raises
    ------
    UsageError
        For a quote that is not closed.
    """
    try:
        return shlex.split(line)
    except ValueError as error:
        raise UsageError(f"%cooptim {line}: {error}") from None


def parse(command: Command, words: Sequence[str]) -> argparse.Namespace | None:
    """The options of a subcommand and itself as `command`, or None when help was asked for (and printed).

    Raises
    ------
    UsageError
    """
    parser = make_parser(command)
    rest = [flag for option in command.options if option.is_body for flag in option.flags]
    own = list(itertools.takewhile(lambda word: word not in rest, words))
    if "-h" in own or "--help" in own:
        print(parser.format_help().rstrip())
        return None
    arguments = parser.parse_args(list(words), argparse.Namespace(command=command))
    for option in command.options:
        if option.is_body and getattr(arguments, option.name) == []:
            raise UsageError(f"{option.flags[-1]} needs {option.shown_as}")
    return arguments


def stands_for_body(arguments: argparse.Namespace) -> str:
    """The option that was given in a body's place; "" where none was."""
    given = (o.flags[-1] for o in arguments.command.options if o.is_body and getattr(arguments, o.name))
    return next(given, "")


def make_parser(command: Command) -> argparse.ArgumentParser:
    """The parser of a subcommand; its help is the subcommand's."""
    epilog = f"The body of a %%cooptim {command.name} cell {command.body}." if command.body else None
    parser = _Parser(
        prog=f"cooptim {command.name}",
        description=command.help,
        epilog=epilog,
        usage=usage(command),
        add_help=False,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=30, width=WIDTH),
    )
    for option in command.options:
        text = option.help
        if option.default is not None and not option.is_switch and _typed(option.default):
            text += f" (default {_typed(option.default)})"
        text = text.replace("%", "%%")
        if option.is_switch:
            parser.add_argument(*option.flags, action="store_true", help=text)
        elif option.is_word:
            parser.add_argument(
                option.flags[0],
                nargs="?" if option.is_optional else None,
                type=option.read,
                default=option.default,
                metavar=_metavar(option),
                help=text,
            )
        elif option.is_body:
            parser.add_argument(*option.flags, nargs=argparse.REMAINDER, metavar=_metavar(option), help=text)
        else:
            parser.add_argument(
                *option.flags, type=option.read, default=option.default, metavar=_metavar(option), help=text
            )
    return parser


def spec_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those of the arguments that are fields of their command's spec."""
    return {item.name: getattr(arguments, item.name) for item in dataclasses.fields(arguments.command.spec)}


def usage(command: Command) -> str:
    """The line that shows how a subcommand is typed."""
    prefix = "%%%%" if command.needs_body else "%%"  # argparse halves them
    line = f"{prefix}cooptim {command.name} {' '.join(_shown(o).replace(' ', GLUE) for o in command.options)}"
    return textwrap.fill(line, WIDTH, subsequent_indent=" " * 7, break_on_hyphens=False).replace(GLUE, " ").rstrip()


def complete(command: Command, words: Sequence[str], typing: str) -> list[str]:
    """What may come next after a command and these words of its line: options not given yet, or choices of the last.

    `typing` is the beginning of the word that is being typed.
    """
    flags = {flag: option for option in command.options for flag in option.flags if flag.startswith("-")}
    last = flags.get(words[-1]) if words else None
    if last is not None and not last.is_switch:
        return [choice for choice in last.choices if choice.startswith(typing)]
    given = {flags[word].name for word in words if word in flags}
    offered = [choice for option in command.options if option.is_word for choice in option.choices if not words]
    offered += [option.flags[-1] for option in command.options if not option.is_word and option.name not in given]
    return [word for word in [*offered, "--help"] if word.startswith(typing)]


def _shown(option: Option) -> str:
    if option.is_switch:
        return f"[{option.flags[-1]}]"
    if option.is_word:
        return f"[{_metavar(option)}]" if option.is_optional else _metavar(option)
    return f"[{option.flags[0]} {_metavar(option)}]"


def _metavar(option: Option) -> str:
    if option.choices:
        return "{" + ",".join(option.choices) + "}"
    return option.shown_as or {int: "N", float: "X", tuple[int, ...]: "N,N,..."}.get(option.kind, option.name.upper())


def _typed(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _plain(message: str, parser: argparse.ArgumentParser) -> str:
    """argparse's message without its own idiom, and with what is allowed where it does not say so."""
    message = message.removeprefix("argument ").replace("unrecognized arguments: ", "")
    flags = [flag for action in parser._actions for flag in action.option_strings]
    word = message.split()[0] if message else ""
    if word.startswith("-") and word not in flags and ":" not in message:
        near = difflib.get_close_matches(word, flags, n=1)
        return f"there is no option {word}: " + (f"did you mean {near[0]}?" if near else f"allowed: {' '.join(flags)}")
    if ":" not in message and "required" not in message and "expected" not in message:
        usage = " ".join((parser.usage or "").replace("%%", "%").split())
        shown = usage if len(usage) < LONG_USAGE else f"%{parser.prog} --help shows what it takes"
        return f"{message} is too much: {shown}"
    return message
