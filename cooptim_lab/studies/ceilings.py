"""What this machine can do at the most: measured once and kept, with a task's step counted beside it.

The gauges and the counting are programs for ranks (`costs.measuring`); here it is decided whether they are needed, and
whether what they found may be kept: a measurement that others have disturbed is shown, and made again the next time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..comm.context import Context
from ..costs import known
from ..errors import InputError, LabError, RankFailure, RunStopped
from ..hardware import allowed_cpus
from ..hardware.ceilings import Ceiling, Ceilings, changes, fingerprint, latest
from ..options import option
from ..ranks.pool import RankPool
from ..runs import store
from ..runs.events import Counted, Event, Gauged, Note, Phase, Progress
from ..runs.run import Run
from ..task import Task
from ..training.spec import Spec, make_spec
from .quiet import Surroundings, disturbs, throttled
from .rounds import run_tell_pid
from .study import Study

LINKED = 2
"""Ranks whose messages are timed."""
UNSTEADY = 0.15
"""The quartiles of half the figures lie further apart than this part of them. On one virtual machine that was 0.05 to
0.07 in quiet runs, and 0.17 to 0.31 where operators took up to 1.8 times as long while no counter of the system told of
anybody."""


@dataclass(frozen=True, kw_only=True)
class CeilingSpec(Spec):
    """What one core and all that are allowed can do, and a task's layers beside it."""

    way: ClassVar[str] = "ceilings"
    seconds: float = option(10.0, "what the gauges may take; more of them is more samples", at_least=0.1)
    again: bool = option(False, "measure anew, also where this machine's ceilings are known")


def measure_ceilings(task: Task | None = None, *, pool: RankPool | None = None, **options: Any) -> Run[Ceilings]:
    """Measure what this machine can do: rates of products, bandwidths, the cost of operators, optimizers and messages.

    What was measured once is kept by the machine's fingerprint (processor, CPUs, quota, versions of torch and MPI) and
    given again while that is the same.

    Parameters
    ----------
    task
        Whose layers are set beside it; the built-in digits when left out.
    pool
        The ranks to use; this process's own when left out.
    **options
        The fields of `CeilingSpec`: seconds, again, batch.

    Returns
    -------
    Run
        `run.wait()` gives the `Ceilings`. Figures come as `Gauged` events, the task's step as a `Counted` one. Stopped
        early it gives what was measured until then, which is not kept.

    Raises
    ------
    InputError
        For an option that does not exist or a value out of bounds.
    """
    run: Run[Any] = CeilingStudy(task, make_spec(CeilingSpec, options), pool, LINKED).start()
    return run


class CeilingStudy(Study[Ceiling, CeilingSpec]):
    """The task's step, then the gauges on one rank, then the messages between two."""

    def __init__(self, task: Task | None, spec: CeilingSpec, pool: RankPool | None, workers: int) -> None:
        super().__init__(task, spec, pool, workers)
        self.around = Surroundings(is_here=self.pool.launch.is_here)
        self.fingerprint = fingerprint()
        self.began, self.taken = time.monotonic(), time.time()
        self.doubts: list[str] = []
        self._rows: list[Ceiling] = []
        self._whole: Ceilings | None = None

    @property
    def rows(self) -> list[Ceiling]:
        return list(latest(self._rows))

    @property
    def ceilings(self) -> Ceilings:
        """As far as they are known; those that are whole do not change any more."""
        return self._whole or Ceilings(
            fingerprint=self.fingerprint,
            taken=self.taken,
            seconds=time.monotonic() - self.began,
            cpus=max((row.threads for row in self.rows), default=allowed_cpus()),
            rows=latest(self._rows),
            doubts=tuple(self.doubts),
        )

    def measure(self) -> None:
        is_here = self.pool.launch.is_here
        kept = known.known(self.fingerprint) if is_here and not self.spec.again else None
        last = known.last() if is_here and kept is None and not self.spec.again else None
        if last is not None and (changed := list(changes(last.fingerprint, self.fingerprint))):
            self.say(f"the machine is another than when it was measured ({'; '.join(changed)}): measured again")
        self.count()
        if kept is not None:
            self.show(kept)
            return
        self.find_ranks()
        self.around.await_quiet(self.wait)
        self.began = time.monotonic()
        self.run.post(Phase(text="products, memory, operators, optimizers"))
        self.take(self.ask(run_measure_machine, 1, is_cooperative=True, seconds=self.spec.seconds))
        self.run.post(Phase(text="messages"))
        try:
            self.take(self.ask(run_measure_links, LINKED, is_cooperative=True))
        except RunStopped:
            raise
        except LabError as error:  # the figures of one rank stand without it
            self.doubt(f"messages between ranks were not measured: {error}")
        self.judge()

    def count(self) -> None:
        """The task's step. One that no way could train has no layers to show; the machine is measured all the same."""
        self.run.post(Phase(text=f"a step of {self.task.name}, counted"))
        try:
            step = self.ask(run_measure_task, 1, is_cooperative=True, task=self.task, batch=self.spec.batch)
        except (InputError, RankFailure) as error:
            self.run.post(Note(text=f"the layers of {self.task.name} are not shown: {error}"))
        else:
            self.run.post(Counted(step=step))

    def show(self, kept: Ceilings) -> None:
        """What was measured before."""
        self._whole = kept
        for row in kept.rows:
            self.run.post(Gauged(ceiling=row.summary()))
        when = store.age(kept.taken)
        self.say(f"measured {when} in {kept.seconds:.1f} s, and this machine is the same; `again` measures anew")
        for doubt in kept.doubts:
            self.run.post(Note(text=doubt))

    def take(self, rows: list[dict[str, Any]]) -> None:
        """Figures that are whole."""
        self._rows += map(Ceiling.from_summary, rows)
        for row in rows:
            self.run.post(Gauged(ceiling=row))

    def judge(self) -> None:
        """Whether they may be kept, and what is to be doubted of them."""
        seen = self.around.so_far()
        if said := throttled([seen]):
            self.doubt(said)
        if said := disturbs(seen) or unsteady(self.rows):
            self.doubt(f"busy: {said}, so the figures are lower than the machine's, and not kept")
        self._whole = self.ceilings
        if said:
            return
        if not self.pool.launch.is_here:
            self.say("measured on another machine than the notebook's: not kept")
            return
        try:
            known.keep(self._whole)
        except OSError as error:
            self.say(f"the figures are not kept: {error}")

    def doubt(self, text: str) -> None:
        self.doubts.append(text)
        self.run.post(Note(text=text))

    def say(self, text: str) -> None:
        self.run.post(Note(text=text, is_doubt=False))

    def wait(self, said: str) -> None:
        """For quiet, at every look."""
        if self.run.stop_level:
            raise RunStopped("stopped")
        self.run.post(Phase(text=f"{said}: waiting for quiet"))

    def find_ranks(self) -> None:
        """Which processes are the ranks'; they are started if there are too few, before any clock."""
        self.around.ranks = self.ask_all(run_tell_pid, LINKED)
        self.around.begin()

    def forward(self, event: Event) -> None:
        """Of a program's events, what the study shows."""
        if isinstance(event, Gauged):
            self._rows.append(Ceiling.from_summary(event.ceiling))
            self.run.post(event)
        elif isinstance(event, Progress):
            self.run.post(event)
        else:
            self.pass_on(event)

    def _finish(self, state: str) -> None:
        ceilings: Any = self.ceilings
        self.run.finish(ceilings, state=state, summary={"ceilings": ceilings.summary()})


def unsteady(rows: Sequence[Ceiling]) -> str:
    """That figures jump about, if they do; else nothing."""
    apart = [
        (row.high - row.low) / row.value
        for row in rows
        if row.value and row.low is not None and row.high is not None and row.samples > 1
    ]
    if not apart or statistics.median(apart) <= UNSTEADY:
        return ""
    return f"the quartiles of half the figures are {100 * statistics.median(apart):.0f} % of them apart, or more"


# On a rank. What needs torch is imported there, never in the kernel.


def run_measure_machine(context: Context, seconds: float) -> Any:
    """See `costs.measuring.measure_machine`."""
    from ..costs.measuring import measure_machine

    return measure_machine(context, seconds)


def run_measure_links(context: Context) -> Any:
    """See `costs.measuring.measure_links`."""
    from ..costs.measuring import measure_links

    return measure_links(context)


def run_measure_task(context: Context, task: Task, batch: int) -> Any:
    """See `costs.measuring.measure_task`."""
    from ..costs.measuring import measure_task

    return measure_task(context, task, batch)
