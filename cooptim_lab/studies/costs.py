"""What each way to aggregate costs: measured, and predicted from the latency and the bandwidth of the pool.

The pool is calibrated once, then steps are timed at each number of workers. Each row
is an event as soon as it is known; the curves follow at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any, ClassVar

from ..comm.context import Context
from ..costs.formulas import LEAST, WAYS, CostRow, crossing, exchange_seconds, spread, step_seconds
from ..costs.links import Calibration, Compute
from ..errors import InputError
from ..options import option
from ..ranks.pool import RankPool
from ..runs.events import Calibrated, Costed, Event, Note, Phase, Points, Progress
from ..runs.run import Run
from ..task import Task
from ..training.spec import Spec, make_spec
from .study import Study

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
    """Server, allreduce, shared and local at several numbers of workers: predicted beside measured."""

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
        `run.wait()` gives a `CostRow` for server, allreduce, shared and local at each number of workers. They come as
        `Costed` events, α and β as a `Calibrated` event.

    Raises
    ------
    InputError
        For an option that does not exist or a value out of bounds.
    """
    spec = make_spec(CostSpec, options)
    counts = sorted(set(spec.workers))
    if spec.batch < counts[-1]:
        raise InputError(f"batch = {spec.batch}: {counts[-1]} workers have no row each; give {counts[-1]} or more")
    return CostStudy(task, spec, pool, counts[-1]).start()


class CostStudy(Study[CostRow, CostSpec]):
    """Steps of each way at each number of workers, beside what the formulas predict of them."""

    def __init__(self, task: Task | None, spec: CostSpec, pool: RankPool | None, workers: int) -> None:
        super().__init__(task, spec, pool, workers)
        self.counts = sorted(set(spec.workers))
        self._rows: list[CostRow] = []
        self.done = 0.0

    @property
    def rows(self) -> list[CostRow]:
        return self._rows

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
                self._rows.append(row)
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

    def forward(self, event: Event) -> None:
        """Of a program's events, what the study shows."""
        if isinstance(event, Progress):
            share = self.done + event.done / event.total / len(self.counts)
            self.run.post(Progress(done=round(1000 * share), total=1000))
        else:
            self.pass_on(event)


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
