"""Studies: several runs of one task, measured beside each other. `compare` and `measure_speedup`.

A study is a Run too. Its trainings go one after the other, interleaved over the rounds, so that what disturbs the
machine disturbs every way alike; each measured row is an event as soon as it is known.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import psutil

from ..data.datasets import digits
from ..errors import InputError, LabError, RunStopped
from ..ranks.pool import RankPool
from ..ranks.shared import shared_pool
from ..runs import store
from ..runs.events import Event, Measured, Note, Phase, Points, Progress, Started
from ..runs.result import Result
from ..runs.run import Run
from ..task import Task
from ..training.spec import Baseline, Sharded, Spec, Subnets, aggregate_option, make_spec, option, subnets_option
from ..ways import TITLES, count, launch
from .rows import FEW_REPEATS, Row, confidence, measure, verdict

Later = Callable[[Mapping[str, list[Result]]], Spec]
"""A way that depends on what the ways before it came to, by title."""
BUSY_SECONDS, BUSY_SHARE = 0.2, 0.25
"""How long to look at the machine before a study, and from which share of its CPUs on others disturb it."""


@dataclass(frozen=True, kw_only=True)
class Comparison(Spec):
    """Each way, side by side."""

    way: ClassVar[str] = "compare"
    workers: int = option(2, "MPI ranks for sub-networks and shards", at_least=1)
    subnets: int = subnets_option()
    aggregate: str = aggregate_option()
    repeats: int = option(3, "rounds; the median counts, the range is shown", at_least=1)


@dataclass(frozen=True, kw_only=True)
class SpeedupStudy(Spec):
    """One way at several numbers of workers, beside the baseline."""

    way: ClassVar[str] = "speedup"
    workers: tuple[int, ...] = option((1, 2), "numbers of MPI ranks to measure, as 1,2,4", at_least=1)  # type: ignore[assignment]
    subnets: int = subnets_option()
    aggregate: str = aggregate_option()
    repeats: int = option(FEW_REPEATS, "rounds; the median counts, the range is shown", at_least=1)


@dataclass(frozen=True, kw_only=True)
class SeedStudy(Subnets):
    """Sub-networks beside the network as it is, and beside one network of as many parameters, over several seeds."""

    way: ClassVar[str] = "seeds"
    seeds: int = option(5, "seeds, from --seed on; the table has mean and spread over them", at_least=2)


def compare(task: Task | None = None, *, pool: RankPool | None = None, **options: Any) -> Run[list[Row]]:
    """Train a task as it is, as sub-networks and sharded, and set the three side by side.

    Parameters
    ----------
    task
        What to train; the built-in digits when left out.
    pool
        The ranks to use; this process's own when left out.
    **options
        The fields of `Comparison`: subnets, workers, aggregate, repeats, epochs, batch, seed.

    Returns
    -------
    Run
        `run.wait()` gives a `Row` for each way, the baseline first.

    Raises
    ------
    InputError
        For an option that does not exist or a value out of bounds.
    """
    spec = make_spec(Comparison, options)
    ways = [_derive(kind, spec) for kind in (Baseline, Subnets, Sharded)]
    titles = [
        TITLES["baseline"],
        count(spec.subnets, "sub-network"),
        f"{count(spec.workers, 'shard')}, {spec.options()['aggregate']}",
    ]
    return _study(task, spec, list(zip(titles, ways, strict=True)), spec.repeats, pool)


def measure_speedup(
    task: Task | None = None, way: str = "sharded", *, pool: RankPool | None = None, **options: Any
) -> Run[list[Row]]:
    """Measure the speedup of one way at several numbers of workers, beside the network as it is.

    Parameters
    ----------
    way
        subnets or sharded.
    **options
        The fields of `SpeedupStudy`: workers (a tuple), repeats, subnets, aggregate, epochs, batch, seed.

    Returns
    -------
    Run
        `run.wait()` gives a `Row` for each number of workers. Rows come as `Measured` events while the rounds go on.

    Raises
    ------
    InputError
        For an unknown way, an option that does not exist or a value out of bounds.
    """
    kinds: dict[str, type[Spec]] = {"subnets": Subnets, "sharded": Sharded}
    if way not in kinds:
        raise InputError(f"way = {way!r}: choose subnets or sharded")
    spec = make_spec(SpeedupStudy, options)
    counts = sorted(set(spec.workers))
    if way == "subnets" and counts[-1] > spec.subnets:
        raise InputError(
            f"workers = {counts[-1]}: there are only {spec.subnets} sub-networks to share; give -n {counts[-1]} or more"
        )
    ways: list[tuple[str, Spec]] = [(TITLES["baseline"], _derive(Baseline, spec))]
    for workers in counts:
        title = f"{TITLES[way]}, {count(workers, 'worker')}"
        ways.append((title, _derive(kinds[way], spec, workers=workers)))
    return _study(task, spec, ways, spec.repeats, pool, way=way)


def compare_seeds(task: Task | None = None, *, pool: RankPool | None = None, **options: Any) -> Run[list[Row]]:
    """Train sub-networks, the network as it is, and one network of as many parameters, each with several seeds.

    Parameters
    ----------
    **options
        The fields of `SeedStudy`: seeds, and those of `train_subnets`.

    Returns
    -------
    Run
        `run.wait()` gives three rows with the mean of the metric and its standard deviation over the seeds. Its notes
        say which is better, or that the spread does not let it be said.

    Raises
    ------
    InputError
        For an option that does not exist or a value out of bounds.
    """
    spec = make_spec(SeedStudy, options)
    subnets = count(spec.subnets, "sub-network")

    def as_large(results: Mapping[str, list[Result]]) -> Spec:
        return _derive(Baseline, spec, parameters=results[subnets][0].parameters)

    ways: list[tuple[str, Spec | Later]] = [
        (TITLES["baseline"], _derive(Baseline, spec)),
        (subnets, _derive(Subnets, spec)),
        ("one network, as many parameters", as_large),
    ]
    return _study(task, spec, ways, spec.seeds, pool)


def _derive(kind: type[Spec], study: Spec, **more: Any) -> Spec:
    """The spec of one training, with the options that it shares with the study."""
    shared = {item.name: getattr(study, item.name) for item in fields(kind) if hasattr(study, item.name)}
    if kind is Baseline:
        shared.pop("workers")
    return kind(**{**shared, **more})


def _study(
    task: Task | None,
    spec: Spec,
    ways: Sequence[tuple[str, Spec | Later]],
    repeats: int,
    pool: RankPool | None,
    **more: str,
) -> Run[list[Row]]:
    task, pool = task or digits(), pool or shared_pool()
    options = {**spec.options(), **more}
    most = max(way.workers for _, way in ways if isinstance(way, Spec))
    pool.reserve(most)
    run: Run[list[Row]] = Run(spec.way, options, title=" ".join([spec.way, *more.values()]) + f": {task.name}")
    store.keep(run)
    run.post(Started(way=spec.way, options=options, workers=most))
    threading.Thread(
        target=_carry, args=(run, task, spec, ways, repeats, pool), name=f"cooptim-{spec.way}", daemon=True
    ).start()
    return run


def _carry(
    run: Run[list[Row]], task: Task, spec: Spec, ways: Sequence[tuple[str, Spec | Later]], repeats: int, pool: RankPool
) -> None:
    """On the study's thread: every way in every round, a row for each as soon as it stands beside a baseline."""
    results: dict[str, list[Result]] = {title: [] for title, _ in ways}
    baseline_title = ways[0][0]
    rows: dict[str, Row] = {}
    total, done = repeats * len(ways), 0

    def show(titles: Iterable[str]) -> None:
        for title in titles:
            rows[title] = measure(title, results[title], results[baseline_title], cpus=pool.cpus)
            run.post(Measured(row=rows[title].summary()))

    run.begin()
    busy = psutil.cpu_percent(interval=BUSY_SECONDS) / 100
    if busy > BUSY_SHARE and not pool.is_busy:
        run.post(Note(text=f"other programs use {100 * busy:.0f} % of this machine's CPUs: do not trust the seconds"))
    try:
        for round_number in range(1, repeats + 1):
            for title, way in ways:
                where = f"round {round_number} of {repeats}: " if repeats > 1 else ""
                run.post(Phase(text=f"{where}{title}"))
                forward = _forward(run, title, done, total, repeats)
                one = way if isinstance(way, Spec) else way(results)
                if isinstance(spec, SeedStudy):
                    one = replace(one, seed=one.seed + round_number - 1)
                results[title].append(_train_one(run, task, one, pool, forward))
                done += 1
                if round_number == 1:
                    show([title])
            if round_number > 1:  # together: a row of two rounds beside a baseline of three would not fit
                show(results)
    except LabError as error:
        if isinstance(error, RunStopped) and rows:
            run.finish(list(rows.values()), state="stopped", summary=_summary(rows))
        else:
            run.fail(error)
        return
    except Exception as error:  # noqa: BLE001 - a run must end, whatever happens; the error is its end
        run.fail(error)
        return
    if isinstance(spec, SeedStudy):
        baseline, subnets, as_large = rows.values()
        run.post(Note(text=verdict(subnets, baseline)))
        run.post(Note(text=verdict(subnets, as_large)))
    held = f"holds the true median with probability {confidence(repeats):.2f}"
    alone = "one round: how far another would lie from it is not known; --repeats 5 shows it"
    run.post(Note(text=f"the range of {repeats} rounds {held}" if repeats > 1 else alone))
    run.finish(list(rows.values()), summary=_summary(rows))


def _train_one(run: Run[list[Row]], task: Task, spec: Spec, pool: RankPool, forward: Callable[[Event], None]) -> Result:
    child = launch(task, spec, pool=pool, record=False)
    child.log.listen(forward)
    run.on_stop(lambda level: child.stop())
    result = child.wait()
    if result.state != "done" or run.stop_level:
        raise RunStopped("stopped")
    return result


def _forward(run: Run[list[Row]], title: str, done: int, total: int, repeats: int) -> Callable[[Event], None]:
    """What of a training's events its study shows: progress over all, notes, and in the first round the curves."""
    in_first_round = done < total // repeats

    def forward(event: Event) -> None:
        if isinstance(event, Progress):
            if event.rank != 0:  # one rank tells how far the whole is; all would make it go back and forth
                return
            share = event.done / max(1, event.total)
            run.post(Progress(done=round((done + share) * 1000), total=total * 1000))
        elif isinstance(event, Points) and event.curve == "held-out loss" and in_first_round:
            run.post(Points(rank=event.rank, curve=f"{title} · {event.curve}", x=event.x, y=event.y))
        elif isinstance(event, (Note, Phase)) and not (isinstance(event, Phase) and event.text == "running"):
            run.post(event)

    return forward


def _summary(rows: Mapping[str, Row]) -> dict[str, Any]:
    return {"rows": [row.summary() for row in rows.values()]}
