"""The subcommands: parsed options in, a plain call of the engine, what comes back shown. A short function each."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display

from cooptim_lab import hardware, ways
from cooptim_lab.data.datasets import digits
from cooptim_lab.errors import InputError, LabError, RankFailure
from cooptim_lab.ranks.pool import RankPool
from cooptim_lab.ranks.shared import close_shared_pool, share_pool, shared_pool
from cooptim_lab.runs import store
from cooptim_lab.runs.run import Run
from cooptim_lab.studies import costs as costing
from cooptim_lab.studies import study as studies
from cooptim_lab.task import NAMES, Task, misspelt
from cooptim_lab.training.spec import make_spec

from . import options
from .body import run_body
from .picture import Picture
from .plots import mime_bundle
from .tables import Table, duration, percent, picture_table, spent_table
from .view import RunView, watch, watch_in_background, write_output


@dataclass
class Session:
    """What one notebook has: its shell, the current task, its runs by id, the newest last."""

    shell: InteractiveShell
    task: Task | None = None
    runs: dict[str, Run[Any]] = field(default_factory=dict)

    @property
    def current_task(self) -> Task:
        """The task defined last, or the built-in one."""
        return self.task or digits()

    def run(self, id: str) -> Run[Any] | None:
        """A run of this kernel."""
        return self.runs.get(id)

    def follow(self, run: Run[Any], arguments: argparse.Namespace, *, has_chart: bool = True) -> bool:
        """Bind, show and, unless it goes on in the background, await a run. Returns whether it has ended here."""
        self.runs[run.id] = run
        if arguments.out:
            self.shell.user_ns[arguments.out] = run
        view = RunView(run, has_chart=has_chart)
        if arguments.bg:
            watch_in_background(view)
            return False
        watch(view)
        return True


def dispatch(session: Session, line: str, cell: str | None) -> None:
    """Run one `%cooptim` line or `%%cooptim` cell.

    Raises
    ------
    UsageError
        For every mistake of the user's: one line.
    RankFailure
        When a rank raised or died: shown as that rank's traceback and one line.
    """
    words = options.split_line(line)
    if not words:
        if cell is not None:
            raise UsageError(f"%%cooptim needs a subcommand: choose one of {', '.join(_with_body())}")
        print(overview())
        return
    if words[0] in ("-h", "--help"):
        print(overview())
        return
    command = options.find_command(words[0])
    arguments = options.parse(command, words[1:])
    if arguments is None:
        return
    if cell is not None and not command.body:
        raise UsageError(
            f"%%cooptim {command.name} takes no body: write %cooptim {line}; {', '.join(_with_body())} take one"
        )
    if cell is None and command.needs_body:
        raise UsageError(
            f"%cooptim {command.name} needs a body: write %%cooptim {line} and what it {command.body} below"
        )
    try:
        HANDLERS[command.name](session, arguments, cell)
    except RankFailure:
        raise
    except LabError as error:
        # A subclass of UsageError would print a whole traceback: it must be this very class.
        raise UsageError(str(error)) from None


def overview() -> str:
    """One screen: this machine in a line, the commands, what to try next."""
    typed = [(f"{'%%' if c.needs_body else '%'}cooptim {c.name}", c.help) for c in options.COMMANDS.values()]
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


def show_hardware(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """A table of what this process may use."""
    found = hardware.detect()
    print(hardware.summary(found))
    cells = [["what", "value", "what it means"], *(list(row) for row in hardware.rows(found))]
    display(Table(cells, [f"⚠ {warning}" for warning in found.warnings]))


def define_task(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """Make the body's names the current task; without a body, say what the current task is."""
    if cell is not None:
        session.task = task_from_body(session, cell)
    print(describe_task(session.current_task))


def task_from_body(session: Session, cell: str) -> Task:
    """The task that a body defines."""
    if not cell.strip():
        return Task.from_names({})  # says what is missing
    names = run_body(session.shell, cell, "no task was defined")
    task = Task.from_names(names)
    for line in misspelt(names):
        print(f"⚠ {line}")
    return task


def describe_task(task: Task) -> str:
    """One line: what is trained on what."""
    model = getattr(task.model, "__name__", type(task.model).__name__)
    if hasattr(task.model, "parameters") and not isinstance(task.model, type):
        model += f" of {sum(p.numel() for p in task.model.parameters()):,} parameters"
    data = (
        f"{len(task.data[0])} rows"
        if isinstance(task.data, (tuple, list))
        else getattr(task.data, "__name__", "a Dataset")
    )
    given = [name for name in NAMES[2:] if getattr(task, name) is not None]
    own = f", own {', '.join(given)}" if given else ""
    return f"{task.name}: {model} on {data}{own}; {percent(task.held_out)} held out"


def train(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """`subnets` and `sharded`: one run of the body's task, or of the current one."""
    command = options.COMMANDS[arguments.command]
    assert command.spec is not None
    task = session.current_task if cell is None else task_from_body(session, cell)
    given = given_options(session, command, arguments)
    if getattr(arguments, "seeds", None):
        study_run = studies.compare_seeds(task, seeds=arguments.seeds, **given)
        if session.follow(study_run, arguments):
            show_rows(study_run)
        return
    show_training(session, ways.launch(task, make_spec(command.spec, given)), arguments)


def show_training(session: Session, run: Run[Any], arguments: argparse.Namespace) -> None:
    """Follow one training; then what came of it, in a line or two, and where the time went."""
    if session.follow(run, arguments):
        picture = Picture.of(run.title, run.log.since(0))
        print(f"run {run.id}: {picture.sentence}")
        print_notes(picture)
        if picture.has_breakdown:
            display(Table(spent_table(picture.spent), [picture.verdict]))


def resume_run(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """Go on with a run on record."""
    show_training(session, ways.resume(arguments.id), arguments)


def given_options(session: Session, command: options.Command, arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of the command's spec; what names a class of the notebook's is that class."""
    given = options.spec_options(command, arguments)
    for option in command.options:
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


def print_notes(picture: Picture) -> None:
    """Doubts, then how it was done."""
    for line in [*(f"⚠ {note}" for note in picture.notes), *picture.remarks]:
        print(line)


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
    if session.follow(run, arguments, has_chart=False):
        for rank, value in enumerate(run.result or []):
            if value is not None:
                print(f"[{rank}] {value!r}")


def study(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """`compare`, `speedup` and `costs`: the live figure, then the table with its doubts."""
    command = options.COMMANDS[arguments.command]
    given = given_options(session, command, arguments)
    start: Callable[..., Run[Any]] = studies.compare
    if command.name == "speedup":
        start, given = studies.measure_speedup, {**given, "way": arguments.way}
    elif command.name == "costs":
        start = costing.measure_costs
    run = start(session.current_task, **given)
    if session.follow(run, arguments):
        show_rows(run)


def show_rows(run: Run[Any]) -> None:
    """The table in which a study ends."""
    picture = Picture.of(run.title, run.log.since(0))
    display(picture_table(picture))


def open_lab(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """The panel."""
    from .panel import LabPanel

    LabPanel(session).open()


def list_runs(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """A table of the newest runs on record."""
    records = store.records()
    if not records:
        print("no run on record yet: %cooptim compare makes the first")
        return
    cells = [["id", "when", "what", "state", "result"]]
    for record in records[:20]:
        picture = Picture.of(record.title, record.events)
        outcome = picture.status if record.state not in ("running", "lost") else ""
        cells.append([record.id, store.age(record.created), record.title, record.state, outcome])
    more = [f"and {len(records) - 20} older ones in {store.directory()}"] if len(records) > 20 else []
    display(Table(cells, more))


def show_run(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """Draw a run from its record: the figure, its table, its notes and what its ranks printed."""
    record = store.load(arguments.id) if arguments.id else next(iter(store.records()), None)
    if record is None:
        raise InputError("no run on record yet: %cooptim compare makes the first")
    picture = Picture.of(record.title, record.events)
    picture.state = record.state
    display(mime_bundle(picture), raw=True)
    if picture.rows or picture.costs:
        display(picture_table(picture))
    else:
        print_notes(picture)
        if picture.has_breakdown:
            display(Table(spent_table(picture.spent), [picture.verdict]))
    for event in picture.output:
        write_output(event)


def stop_run(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """Ask a run to end, and wait a moment to say how it ended."""
    running = [run for run in session.runs.values() if not run.ended]
    if arguments.id:
        run = session.run(arguments.id)
        if run is None:
            raise InputError(f"this notebook has no run {arguments.id}: %cooptim runs lists those on record")
        if run.ended:
            raise InputError(f"run {run.id} has ended already: {run.state}")
    elif running:
        run = running[-1]
    else:
        raise InputError("no run is going on in this notebook")
    run.stop()
    state = run.state if run.join(3) else "is about to stop after the step it is in; once more interrupts it"
    print(f"run {run.id}: {state}")


def pool(session: Session, arguments: argparse.Namespace, cell: str | None) -> None:
    """The ranks: start, stop, status."""
    places = {name: getattr(arguments, name) for name in ("hosts", "launcher", "interface")}
    for name, value in {"workers": arguments.workers, **places}.items():
        if value is not None and arguments.action != "start":
            raise InputError(f"--{name} goes with start: %cooptim pool start --{name} {value}")
    if arguments.action == "stop":
        stop_pool()
    elif any(places.values()):
        start_pool_at(arguments.workers, places)
    elif arguments.action == "start":
        shared_pool().reserve(arguments.workers or shared_pool().workers)
        shared_pool().start()
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


def _with_body() -> list[str]:
    return [command.name for command in options.COMMANDS.values() if command.body]


HANDLERS: dict[str, Callable[[Session, argparse.Namespace, str | None], None]] = {
    "hardware": show_hardware,
    "task": define_task,
    "subnets": train,
    "sharded": train,
    "ranks": run_on_ranks,
    "speedup": study,
    "compare": study,
    "costs": study,
    "lab": open_lab,
    "runs": list_runs,
    "show": show_run,
    "stop": stop_run,
    "resume": resume_run,
    "pool": pool,
}
