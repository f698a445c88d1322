"""What each way to aggregate costs: measured, and predicted from the latency and the bandwidth of the pool.

A study like the others: the pool is calibrated once, then steps are timed at each number of workers. Each row
is an event as soon as it is known; the curves follow at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, ClassVar

from ..comm.context import Context
from ..costs.formulas import (
    LEAST,
    WAYS,
    Calibration,
    Compute,
    CostRow,
    crossing,
    exchange_seconds,
    spread,
    step_seconds,
)
from ..data.datasets import digits
from ..errors import InputError, LabError, RunStopped
from ..ranks.job import give_values
from ..ranks.pool import RankPool
from ..ranks.shared import shared_pool
from ..runs import store
from ..runs.events import Calibrated, Costed, Event, Note, Phase, Points, Progress, Started
from ..runs.run import Run
from ..task import Task
from ..training.spec import Spec, make_spec, option

LINES = (*WAYS, "ring")
"""What is drawn over the number of workers."""
MOST_WORKERS = 8
"""As far as the lines are drawn, or as far as was measured."""

FAR = 0.2
"""A step that takes so much longer than predicted is explained."""
WHY = (
    "the formulas know neither of ranks that come late, as where they take turns on the CPUs, nor of Python's own time"
)


@dataclass(frozen=True, kw_only=True)
class CostSpec(Spec):
    """Server, allreduce and local at several numbers of workers: predicted beside measured."""

    way: ClassVar[str] = "costs"
    workers: tuple[int, ...] = option((2, 4), "numbers of MPI ranks to measure, as 2,4", at_least=2)  # type: ignore[assignment]
    sync_every: int = option(10, "steps between the meetings of local", at_least=1)
    repeats: int = option(5, "rounds; the median counts, the range is shown", at_least=1)
    epochs: int = option(1, "no matter here: steps are timed, nothing is trained to an end", at_least=1)


def measure_costs(task: Task | None = None, *, pool: RankPool | None = None, **options: Any) -> Run[list[CostRow]]:
    """Measure latency α and bandwidth β of a pool once, and set what they predict of a step beside its measured time.

    Parameters
    ----------
    task
        Whose steps; the built-in digits when left out.
    pool
        The ranks to use; this process's own when left out.
    **options
        The fields of `CostSpec`: workers (a tuple), sync_every, repeats, batch, seed.

    Returns
    -------
    Run
        `run.wait()` gives a `CostRow` for server, allreduce and local at each number of workers. They come as `Costed`
        events, α and β as a `Calibrated` event.

    Raises
    ------
    InputError
        For an option that does not exist or a value out of bounds.
    """
    spec = make_spec(CostSpec, options)
    task, pool = task or digits(), pool or shared_pool()
    if not isinstance(task, Task):
        raise InputError(f"task is a {type(task).__name__}: give Task(model=..., data=...)")
    counts = sorted(set(spec.workers))
    if spec.batch < counts[-1]:
        raise InputError(f"batch = {spec.batch}: {counts[-1]} workers have no row each; give {counts[-1]} or more")
    pool.reserve(counts[-1])
    run: Run[list[CostRow]] = Run(spec.way, spec.options(), title=f"costs: {task.name}")
    store.keep(run)
    run.post(Started(way=spec.way, options=spec.options(), workers=counts[-1]))
    work = _Work(run, task, spec, counts, pool)
    threading.Thread(target=work.carry, name="cooptim-costs", daemon=True).start()
    return run


class _Work:
    """On the study's thread."""

    def __init__(
        self, run: Run[list[CostRow]], task: Task, spec: CostSpec, counts: Sequence[int], pool: RankPool
    ) -> None:
        self.run, self.task, self.spec, self.counts, self.pool = run, task, spec, counts, pool
        self.rows: list[CostRow] = []
        self.done = 0.0

    def carry(self) -> None:
        """To the run's end, whatever happens."""
        self.run.begin()
        try:
            self.measure()
        except LabError as error:
            if isinstance(error, RunStopped) and self.rows:
                self.run.finish(self.rows, state="stopped", summary=self.summary())
            else:
                self.run.fail(error)
        except Exception as error:  # noqa: BLE001 - a run must end, whatever happens; the error is its end
            self.run.fail(error)
        else:
            self.run.finish(self.rows, summary=self.summary())

    def summary(self) -> dict[str, Any]:
        return {"rows": [row.summary() for row in self.rows]}

    def measure(self) -> None:
        spec, computes, hosts, size = self.spec, {}, [0], 0
        self.run.post(Phase(text="latency and bandwidth"))
        found = self.ask(run_calibrate, self.counts[-1])
        on = Calibration.from_summary(found)
        self.run.post(Calibrated(links=found))
        for workers in self.counts:
            self.run.post(Phase(text=f"{workers} workers"))
            arguments = {name: getattr(spec, name) for name in ("batch", "sync_every", "repeats", "seed")}
            timed = self.ask(run_time_ways, workers, task=self.task, **arguments)
            hosts, size, computes[workers] = timed["hosts"], timed["size"], Compute(**timed["compute"])
            for way in WAYS:
                h = self.sync_every(way)
                predicted = step_seconds(way, size, hosts, on, computes[workers], h)
                exchange = exchange_seconds(way, size, hosts, on, h)
                row = CostRow.of(way, workers, size, predicted, exchange, timed["steps"][way])
                self.rows.append(row)
                self.run.post(Costed(row=row.summary()))
                if row.off < -FAR:
                    times = f"{row.measured / row.predicted:.1f}× what is predicted"
                    self.run.post(Note(text=f"{way}, {workers} workers: {times}; {WHY}"))
            self.done += 1 / len(self.counts)
        self.draw(on, hosts, size, computes)

    def draw(self, on: Calibration, hosts: Sequence[int], size: int, computes: Mapping[int, Compute]) -> None:
        """The lines over the number of workers, and where they cross."""
        most = len(set(hosts)) if on.local is None else max(MOST_WORKERS, self.counts[-1])
        counts = range(2, most + 1)
        for way in LINES:
            h = self.sync_every(way)
            steps = [step_seconds(way, size, spread(m, hosts), on, interpolate(computes, m), h) for m in counts]
            self.run.post(Points(curve=way, x=tuple(map(float, counts)), y=tuple(steps)))
        least = crossing(hosts, on)
        where = "at no size" if least is None else f"from {least / 1e3:.3g} kB on" if least > LEAST else "at every size"
        text = f"by the formulas a ring of {len(hosts)} beats the server {where}; this model has {size / 1e3:,.4g} kB"
        self.run.post(Note(text=text, is_doubt=False))

    def sync_every(self, way: str) -> int:
        return self.spec.sync_every if way == "local" else 1

    def ask(self, program: Callable[..., Any], workers: int, **arguments: Any) -> Any:
        """What rank 0 returns of a program."""
        child: Run[list[Any]] = Run("call", {"workers": workers})
        child.log.listen(self.forward)
        self.run.on_stop(lambda level: child.stop())
        self.pool.submit(child, program, arguments, workers=workers, finish=give_values, is_cooperative=False)
        values = child.wait()
        if self.run.stop_level:
            raise RunStopped("stopped")
        return values[0]

    def forward(self, event: Event) -> None:
        """Of a program's events, what the study shows."""
        if isinstance(event, Progress):
            share = self.done + event.done / event.total / len(self.counts)
            self.run.post(Progress(done=round(1000 * share), total=1000))
        elif isinstance(event, (Note, Phase)) and not (isinstance(event, Phase) and event.text == "running"):
            self.run.post(event)


def interpolate(known: Mapping[int, Compute], workers: int) -> Compute:
    """The computing of a step at any number of workers: linear in 1/M between the nearest that were measured."""
    low = max((m for m in known if m <= workers), default=min(known))
    high = min((m for m in known if m >= workers), default=max(known))
    share = 0.0 if low == high else (1 / low - 1 / workers) / (1 / low - 1 / high)
    pairs = zip(astuple(known[low]), astuple(known[high]), strict=True)
    return Compute(*(a + share * (b - a) for a, b in pairs))


# On a rank. What needs torch is imported there, never in the kernel.


def run_calibrate(context: Context) -> Any:
    """See `costs.calibration.calibrate`."""
    from ..costs.calibration import calibrate

    return calibrate(context)


def run_time_ways(context: Context, **arguments: Any) -> Any:
    """See `costs.calibration.time_ways`."""
    from ..costs.calibration import time_ways

    return time_ways(context, **arguments)
