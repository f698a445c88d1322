"""The ways to train a task, as plain calls: each makes a Run, hands it to the ranks and returns at once.

This is where the layers meet (spec, run, record, pool), so it stands above all of them and below the studies, which
make many runs.
"""

from __future__ import annotations

import tokenize
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from .comm.context import Context
from .data.datasets import digits
from .errors import InputError, LabError
from .hardware import allowed_cpus
from .hardware.ready import Watch
from .ranks.job import give_values
from .ranks.pool import RankPool
from .ranks.shared import shared_pool
from .ranks.spmd import check_source
from .ranks.spmd import run_cell as spmd_program
from .ranks.spmd import run_file as file_program
from .resuming import Resumption, Submit, reopen
from .runs import store
from .runs.events import Note, Started
from .runs.result import WAITS_MUCH, Result, ready_waiting, slow_by_threads
from .runs.run import Run
from .shards.keeping import Keeping
from .task import Task
from .training.planned import under_plan
from .training.spec import Baseline, Sharded, Spec, Subnets, make_spec

R = TypeVar("R")


def count(number: int, noun: str) -> str:
    """1 shard, 2 shards."""
    return f"{number} {noun}{'s' * (number != 1)}"


TITLES = {"baseline": "as it is", "subnets": "sub-networks", "sharded": "sharded"}
"""What a reader sees for each way."""


def train(task: Task | None = None, *, pool: RankPool | None = None, **options: Any) -> Run[Result]:
    """Train the network as it is, on one rank. Its seconds are T_p.

    Parameters
    ----------
    task
        What to train; the built-in digits when left out.
    pool
        The ranks to use; this process's own when left out.
    **options
        The fields of `training.spec.Baseline`: epochs, batch, seed.

    Returns
    -------
    Run
        `run.wait()` gives the `Result`; `run.stop()` ends it early and keeps what was trained.

    Raises
    ------
    InputError
        For an option that does not exist or a value out of bounds.
    """
    return launch(task, make_spec(Baseline, options), pool=pool)


def train_subnets(task: Task | None = None, *, pool: RankPool | None = None, **options: Any) -> Run[Result]:
    """Train N small networks at the same time and fuse them: y = 1/N Σ f_i(x).

    Parameters, returns and raises as `train`; options are the fields of `training.spec.Subnets`: subnets, workers,
    split, fuse, epochs, batch, seed.
    """
    return launch(task, make_spec(Subnets, options), pool=pool)


def train_sharded(task: Task | None = None, *, pool: RankPool | None = None, **options: Any) -> Run[Result]:
    """Spread the training rows over M ranks and aggregate what they learn: min_w 1/M Σ L(θ_i, y_i).

    Parameters, returns and raises as `train`; options are the fields of `training.spec.Sharded`: workers, aggregate (a
    name, or a class of your own: see `shards.aggregate.synchronous.Own`), shards, skew, compress, sync_every,
    staleness, outer_lr, outer_momentum, save_every, retries, epochs, batch, seed.

    `result.breakdown` says where each rank's time went. With `save_every` the run makes checkpoints: `retries` lets it
    go on by itself after a rank was lost, and `resume` in another process.
    """
    return launch(task, make_spec(Sharded, options), pool=pool)


def run_cell(
    source: str,
    *,
    workers: int = 2,
    push: Mapping[str, Any] | None = None,
    only: Sequence[int] = (),
    timeout: float | None = None,
    pool: RankPool | None = None,
) -> Run[list[Any]]:
    """Run a cell's source on every rank (see `ranks.spmd`). `run.wait()` gives each rank's last expression.

    Parameters
    ----------
    push
        Names for the ranks' memory, set before the cell runs. Large arrays are sent once.
    only
        The ranks that run it, where not all do.
    timeout
        Seconds after which it is interrupted and the run fails.

    Raises
    ------
    InputError
        For a source that is not Python, or a rank that there is not.
    """
    check_source(source)
    if only and not all(0 <= rank < workers for rank in only):
        raise InputError(f"only = {','.join(map(str, only))}: ranks go from 0 to {workers - 1}")
    run: Run[list[Any]] = Run("ranks", {"workers": workers}, title=f"a cell on {workers} ranks")
    store.keep(run)
    run.post(Started(way="ranks", options=run.options, workers=workers))
    arguments = {"source": source, "names": dict(push or {}), "only": tuple(only)}
    how = {"finish": give_values, "is_cooperative": False, "timeout": timeout}
    return _submit(run, pool, spmd_program, arguments, workers, **how)


def run_file(
    path: str,
    arguments: Sequence[str] = (),
    *,
    workers: int = 2,
    timeout: float | None = None,
    pool: RankPool | None = None,
) -> Run[list[Any]]:
    """Run a Python program from disk on every rank, as `mpiexec -n M python PATH ARGUMENTS` would.

    Parameters
    ----------
    timeout
        Seconds after which it is interrupted and the run fails.

    Raises
    ------
    InputError
        When there is no such file, or it is not Python.
    """
    place = Path(path).expanduser().absolute()
    try:
        with tokenize.open(place) as file:
            source = file.read()
        compile(source, place, "exec", dont_inherit=True)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (SyntaxError, ValueError) as error:
        where = f"line {error.lineno} of " if isinstance(error, SyntaxError) and error.lineno else ""
        raise InputError(f"{where}{path} is not Python: {getattr(error, 'msg', error)}") from None
    run: Run[list[Any]] = Run("ranks", {"workers": workers, "file": path}, title=f"{place.name} on {workers} ranks")
    store.keep(run)
    run.post(Started(way="ranks", options=run.options, workers=workers))
    given = {"source": source, "path": str(place), "arguments": tuple(arguments)}
    how = {"finish": give_values, "is_cooperative": False, "timeout": timeout}
    return _submit(run, pool, file_program, given, workers, **how)


def look(task: Task, *, batch: int = 64, pool: RankPool | None = None) -> Run[list[Any]]:
    """Examine a task on a rank, as every way does before its clock. `run.wait()[0]` is what `looking.look` tells.

    Parameters
    ----------
    batch
        Rows of a step.

    Raises
    ------
    InputError
        From `run.wait`: one line that names what does not fit.
    """
    run: Run[list[Any]] = Run("look", {"workers": 1}, title=f"a look at {task.name}")
    arguments = {"task": task, "batch": batch}
    return _submit(run, pool, _look, arguments, 1, finish=give_values, is_cooperative=False)


def _look(context: Context, task: Task, batch: int) -> Any:
    """On a rank; what needs torch is imported there, never in the kernel."""
    from .looking import look

    return look(context, task, batch)


def launch(task: Task | None, spec: Spec, *, pool: RankPool | None = None, record: bool = True) -> Run[Result]:
    """Start one run of `spec` (see `train`), recorded from its first event on; a study records its trainings itself."""
    task = task or digits()
    if not isinstance(task, Task):
        raise InputError(f"task is a {type(task).__name__}: give Task(model=..., data=...)")
    spec = under_plan(spec)
    title = f"{TITLES[spec.way]}, {spec.obeyed}" if spec.obeyed else TITLES[spec.way]
    run: Run[Result] = Run(spec.way, spec.options(), title=f"{title}: {task.name}")
    if record:
        store.keep(run)
    run.post(Started(way=spec.way, options=spec.options(), workers=spec.workers))
    if isinstance(spec, Sharded) and spec.save_every and record:
        Resumption(run, _submitter(run, task, spec, pool), spec.retries).begin(task, spec)
        return run
    finish = _finish_alone if record else _finish
    return _submit(run, pool, run_program, {"task": task, "spec": spec}, spec.workers, finish=finish)


def resume(id: str, *, pool: RankPool | None = None) -> Run[Result]:
    """Go on with a run on record that made checkpoints and did not come to its end.

    Parameters
    ----------
    id
        As `%cooptim runs` lists it.

    Returns
    -------
    Run
        Of the same id, with what it has recorded so far; see `train`.

    Raises
    ------
    InputError
        When it cannot be resumed, and why.
    """
    run, task, spec, lock = reopen(id)
    assert isinstance(spec, Sharded)
    store.keep(run, again=True)
    Resumption(run, _submitter(run, task, spec, pool), spec.retries).go_on(lock)
    return run


def _submitter(run: Run[Result], task: Task, spec: Sharded, pool: RankPool | None) -> Submit:
    carrying = pool or shared_pool()  # once: a retry of a pool that is being closed must not make another

    def submit(keeping: Keeping, rescue: Callable[[LabError], bool]) -> None:
        arguments = {"task": task, "spec": spec, "keeping": keeping}
        _submit(run, carrying, run_program, arguments, spec.workers, finish=_finish_alone, rescue=rescue)

    return submit


def _submit(
    run: Run[R],
    pool: RankPool | None,
    program: Callable[..., Any],
    arguments: dict[str, Any],
    workers: int,
    **how: Any,
) -> Run[R]:
    """Hand a run to the ranks; one that they do not take has failed, on record too."""
    try:
        (pool or shared_pool()).submit(run, program, arguments, workers=workers, **how)
    except LabError as error:
        run.fail(error)
        raise
    return run


def run_program(context: Context, task: Task, spec: Spec, **more: Any) -> tuple[Result | None, dict[str, Any]]:
    """On a rank: the program of the way, and whether its threads ran when they were ready (see `Watch.told`).

    Imported there, so that the kernel never imports torch for it.
    """
    from .programs import PROGRAMS

    watch = Watch()
    with spec.obeyed.around():
        result = PROGRAMS[type(spec)](context, spec.obeyed.of_task(task), spec, **more)
    return result, watch.told()


def _finish(run: Run[Result], values: list[Any], stopped: bool) -> None:
    made: Result = values[0][0]
    result = replace(made, ran=tuple({"rank": rank, **told} for rank, (_, told) in enumerate(values)))
    run.finish(result, state=result.state, summary=result.summary())


def _finish_alone(run: Run[Result], values: list[Any], stopped: bool) -> None:
    """The same for a run that is no round of a study: a study says itself what is to be doubted of all its rounds."""
    result, waiting = values[0][0], [told for _, told in values]
    if said := slow_by_threads(result.tried):
        run.post(Note(text=said))
    share = ready_waiting(waiting)
    if share is not None and share > WAITS_MUCH and result.workers * result.threads <= allowed_cpus():
        said = f"its threads were ready and did not run {100 * share:.0f} % of the time"
        run.post(Note(text=f"{said}: other programs have the CPUs, do not trust the seconds"))
    _finish(run, values, stopped)
