"""The grammar: every subcommand and every option of `%cooptim`, said once, and turned into parser, help and completion.

What a way of training or a study can be told comes from its spec's fields in the engine; only what a face adds (where
to bind the run, whether to wait) is declared here. Parsing ends in a spec or in one `UsageError` line.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import keyword
import shlex
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar, get_type_hints

from IPython.core.error import UsageError

from cooptim_lab.errors import InputError
from cooptim_lab.studies.costs import CostSpec
from cooptim_lab.studies.study import Comparison, SpeedupStudy
from cooptim_lab.training.spec import Sharded, Spec, Subnets, check_option

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
        )
        for item in own_first
    )


BIND = Option(("-o", "--out"), "bind the Run to this notebook variable")
BACKGROUND = Option(("--bg",), "do not wait: the cell ends at once, the view goes on", kind=bool, default=False)
RUNNING = (BIND, BACKGROUND)
RUN_ID = Option(("id",), "which run (%cooptim runs lists them); the newest when left out")
TASK_BODY = "defines model and data (and if wanted loss, optimizer, metric, subnet) for this run"

COMMANDS: dict[str, Command] = {
    command.name: command
    for command in (
        Command("hardware", "what this process may really use"),
        Command(
            "task",
            "define what is trained from now on; without a body, show it",
            body="defines model, data, and if wanted loss, optimizer, metric, subnet(i)",
        ),
        Command(
            "subnets",
            "N small networks, trained at the same time, fused: y = 1/N Σ f_i(x)",
            (
                *from_spec(Subnets),
                Option(("--seeds",), "so many seeds, and a table beside the original", kind=int, at_least=2),
                *RUNNING,
            ),
            body=TASK_BODY,
            spec=Subnets,
        ),
        Command(
            "sharded",
            "the data over M ranks, aggregated at a server: min_w 1/M Σ L(θ_i, y_i)",
            (*from_spec(Sharded), *RUNNING),
            body=TASK_BODY,
            spec=Sharded,
        ),
        Command(
            "ranks",
            "run the body on every rank; comm, rank and size exist, names persist between cells",
            (
                Option(("--workers",), "how many ranks", kind=int, default=2, at_least=1),
                Option(
                    ("--only",),
                    "the ranks that run it, as 0,2; the others keep still",
                    kind=tuple[int, ...],
                    at_least=0,
                ),
                Option(("--push",), "notebook variables to send to the ranks before, as x,y"),
                Option(("--timeout",), "seconds after which it is interrupted", kind=int, at_least=1),
                *RUNNING,
            ),
            body="runs on every rank",
            needs_body=True,
        ),
        Command(
            "speedup",
            "measure one way at several numbers of workers beside the network as it is",
            (
                Option(("way",), "what to measure", choices=("subnets", "sharded"), is_optional=False),
                *from_spec(SpeedupStudy),
                *RUNNING,
            ),
            spec=SpeedupStudy,
        ),
        Command(
            "compare",
            "the current task each way, one table: seconds, P = T_c/T_p, accuracy",
            (*from_spec(Comparison), *RUNNING),
            spec=Comparison,
        ),
        Command(
            "costs",
            "a step by server, allreduce, local: predicted from α and β beside measured",
            (*from_spec(CostSpec), *RUNNING),
            spec=CostSpec,
        ),
        Command("lab", "the panel: sliders for workers and N, Run, Stop, live curves"),
        Command("runs", "the runs on record, the newest first"),
        Command("show", "draw a run again", (RUN_ID,)),
        Command("stop", "stop a run; what was trained is kept", (RUN_ID,)),
        Command(
            "resume",
            "go on with a run that made checkpoints, from the newest of them",
            (Option(("id",), "which run (%cooptim runs lists them)", is_optional=False), *RUNNING),
        ),
        Command(
            "pool",
            "the MPI ranks that stand ready",
            (
                Option(("action",), "what to do", default="status", choices=("status", "start", "stop")),
                Option(("--workers",), "how many ranks to start", kind=int, at_least=1),
                Option(("--hosts",), "where, and how many each has room for, as a:4,b:4; this machine when left out"),
                Option(("--launcher",), "what starts them in mpiexec's place, as 'srun -n {workers}'"),
                Option(("--interface",), "the network interface that the hosts share; found when left out"),
            ),
        ),
    )
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, by raising."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"%{self.prog}: {_plain(message, self)}")


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
    """The options of a subcommand, or None when help was asked for (and printed).

    Raises
    ------
    UsageError
    """
    parser = make_parser(command)
    if "-h" in words or "--help" in words:
        print(parser.format_help().rstrip())
        return None
    arguments = parser.parse_args(list(words), argparse.Namespace(command=command.name))
    name = getattr(arguments, "out", None)
    if name is not None and (not name.isidentifier() or keyword.iskeyword(name)):
        raise UsageError(f"-o {name}: give a name that a variable may have")
    return arguments


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
        text = option.help.replace("%", "%%")
        if option.default is not None and not option.is_switch:
            text += f" (default {_typed(option.default)})"
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
        else:
            parser.add_argument(
                *option.flags, type=option.read, default=option.default, metavar=_metavar(option), help=text
            )
    return parser


S = TypeVar("S", bound=Spec)


def spec_options(command: Command, arguments: argparse.Namespace) -> dict[str, Any]:
    """Those of the arguments that are fields of the command's spec."""
    assert command.spec is not None
    return {item.name: getattr(arguments, item.name) for item in dataclasses.fields(command.spec)}


def usage(command: Command) -> str:
    """The line that shows how a subcommand is typed."""
    prefix = "%%%%" if command.needs_body else "%%"  # argparse halves them
    line = f"{prefix}cooptim {command.name} {' '.join(_shown(o).replace(' ', GLUE) for o in command.options)}"
    return textwrap.fill(line, WIDTH, subsequent_indent=" " * 7, break_on_hyphens=False).replace(GLUE, " ").rstrip()


def complete(text_until_cursor: str) -> list[str]:
    """What may come next on a line: subcommands, options not given yet, or the choices of the last option."""
    words = text_until_cursor.split()
    if not words:
        return []
    typing = "" if text_until_cursor[-1].isspace() else words.pop()
    if not words:
        return []
    if len(words) == 1:
        return [name for name in COMMANDS if name.startswith(typing)]
    command = COMMANDS.get(words[1])
    if command is None:
        return []
    flags = {flag: option for option in command.options for flag in option.flags if flag.startswith("-")}
    last = flags.get(words[-1])
    if last is not None and not last.is_switch:
        return [choice for choice in last.choices if choice.startswith(typing)]
    given = {flags[word].name for word in words if word in flags}
    offered = [choice for option in command.options if option.is_word for choice in option.choices if len(words) == 2]
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
    named = {"out": "NAME", "push": "NAME,NAME,...", "hosts": "HOST:N,...", "launcher": "COMMAND"}
    named["interface"] = "NAME"
    named["compress"] = "KIND"
    return {int: "N", float: "X", tuple[int, ...]: "N,N,..."}.get(option.kind, named.get(option.name, "ID"))


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
