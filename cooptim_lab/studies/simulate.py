"""The study `simulate`: a task's steps measured here, and what they would be on more hosts, cores and workers.

One command calibrates: single steps on one rank and two, messages between them; where workers are to take turns, steps
of two ranks for each core. What follows is numbers (`scaling.here`).
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..comm.context import Context
from ..costs.formulas import WAYS as COSTED
from ..costs.links import Calibration
from ..errors import InputError, RunStopped
from ..hardware import allowed_cpus
from ..options import option
from ..ranks.pool import RankPool
from ..runs.events import Event, Foretold, Note, Phase, Progress, Sampled
from ..runs.run import Run
from ..scaling.here import (
    ASYNC,
    SUBNETS,
    WAYS,
    Figures,
    Machine,
    Simulated,
    gradient_seconds,
    simulate,
    step_of,
    turns_of,
)
from ..scaling.units import read_bandwidth, read_seconds
from ..task import Task
from ..training.spec import Spec, make_spec
from .costs import run_calibrate, run_time_ways
from .quiet import Surroundings, disturbs
from .rounds import run_tell_pid
from .study import Study

LINKED = 2
"""Ranks that compute at the same time while steps are sampled, and whose messages are timed."""
MOST_RANKS = 16
"""What taking turns costs is measured with two ranks for each core, where those are no more."""
USUAL = "10Gbit"
"""What joins hosts where nothing is said."""
MOST_SIZES = 10
"""Parts of so many sizes are measured; what lies between is interpolated."""


@dataclass(frozen=True, kw_only=True)
class SimulateSpec(Spec):
    """Every way at several numbers of workers, on a machine that is not here."""

    way: ClassVar[str] = "simulate"
    workers: tuple[int, ...] = option((1, 2, 4, 8, 16, 32), "numbers of workers to foretell, as 1,2,4", at_least=1)  # type: ignore[assignment]
    hosts: int = option(1, "hosts of the machine that is asked about", at_least=1)
    cores: int = option(0, "cores of each host; 0: as many as there are here", at_least=0)
    link: str = option(
        "", "of a host, as 25Gbit; else as measured between a pool's hosts, or 10Gbit", shown_as="BANDWIDTH"
    )
    latency: str = option("50us", "of a message between hosts, with its unit", shown_as="TIME")
    sync_every: int = option(10, "steps between the meetings of local", at_least=1)
    repeats: int = option(5, "rounds of sampling; the median counts", at_least=1)
    epochs: int = option(1, "no matter here: steps are timed, nothing is trained to an end", at_least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.machine(1, is_measured=False)

    def machine(self, cores: int, *, is_measured: bool) -> Machine:
        """What is asked about; where nothing is said, of so many cores, and by the link that was measured or `USUAL`.

        Raises
        ------
        InputError
            For a bandwidth or a latency that cannot be read.
        """
        bandwidth = 0.0 if is_measured and not self.link else read_bandwidth(self.link or USUAL)
        latency = read_seconds(self.latency)
        return Machine(hosts=self.hosts, cores=self.cores or cores, bandwidth=bandwidth, latency=latency)


def measure_and_simulate(
    task: Task | None = None, *, pool: RankPool | None = None, **options: Any
) -> Run[list[Simulated]]:
    """Measure a task's steps here, and foretell what each way takes on a machine that is not here.

    Parameters
    ----------
    task
        Whose steps; the built-in digits when left out.
    pool
        The ranks to use; this process's own when left out.
    **options
        The fields of `SimulateSpec`: workers (a tuple), hosts, cores, link, latency, sync_every, repeats, batch, seed.

    Returns
    -------
    Run
        `run.wait()` gives a `Simulated` for each way and number of workers. They come as `Foretold` events; what was
        measured stands in the run's record, so that other machines can be asked about without measuring again.

    Raises
    ------
    InputError
        For an option that does not exist or a value out of bounds; for more workers than a batch has rows.
    """
    spec = make_spec(SimulateSpec, options)
    most = max(spec.workers)
    if most > spec.batch:
        raise InputError(f"batch = {spec.batch}: {most} workers have no row each; give --batch {most} or more")
    return SimulateStudy(task, spec, pool, LINKED).start()


class SimulateStudy(Study[Simulated, SimulateSpec]):
    """Sampled here, then put together."""

    def __init__(self, task: Task | None, spec: SimulateSpec, pool: RankPool | None, workers: int) -> None:
        super().__init__(task, spec, pool, workers)
        self.counts = sorted(set(spec.workers))
        self._rows: list[Simulated] = []
        self.around = Surroundings(is_here=self.pool.launch.is_here)
        self._asked, self._to_ask, self._is_crowded = 1, 3 if self.takes_turns else 2, False

    @property
    def rows(self) -> list[Simulated]:
        return self._rows

    def measure(self) -> None:
        self.around.ranks = self.ask_all(run_tell_pid, LINKED)
        self.around.await_quiet(self.wait)
        self.around.begin()
        measured = self.sample()
        if said := disturbs(self.around.so_far()):
            self.run.post(Note(text=f"busy: {said}, so little of this is true: run it when the machine is quiet"))
        self.run.post(Sampled(figures=measured.summary()))
        machine = self.machine(measured.links)
        for row in foretell(measured, self.counts, machine, self.spec.sync_every):
            self._rows.append(row)
            self.run.post(Foretold(row=row.summary()))
        if any(row.turns > 1 for row in self._rows):
            self.run.post(Note(text="more workers than cores take turns: that is foretold with half the certainty"))

    def wait(self, said: str) -> None:
        """For quiet, at every look."""
        if self.run.stop_level:
            raise RunStopped("stopped")
        self.run.post(Phase(text=f"{said}: waiting for quiet"))

    def machine(self, links: Calibration | None = None) -> Machine:
        """What is asked about."""
        return self.spec.machine(allowed_cpus(), is_measured=links is not None and links.between is not None)

    def sample(self) -> Figures:
        """All that has to be measured: some ten seconds."""
        spec = self.spec
        arguments = {name: getattr(spec, name) for name in ("batch", "repeats", "seed")}
        self.run.post(Phase(text="the network as it is"))
        alone = self.ask(run_alone, 1, task=self.task, **arguments)
        self._asked = 2
        self.run.post(Phase(text="parts of a batch, and of the network"))
        parts = self.ask(
            run_parts, LINKED, task=self.task, counts=thinned(self.counts), subnets=self.counts, **arguments
        )
        self.run.post(Phase(text="latency and bandwidth"))
        slots = sum(slots for _, slots in self.pool.launch.hosts)
        links = Calibration.from_summary(self.ask(run_calibrate, max(LINKED, slots)))
        if uncut := parts.pop("uncut"):
            self.run.post(Note(text=uncut))
        measured = Figures(batch=spec.batch, links=links, **alone, **{**parts, "apart": tuple(parts["apart"])})
        return self.in_turns(measured) if self.takes_turns else measured

    @property
    def takes_turns(self) -> bool:
        """Whether there are more workers on a host that is asked about than it has cores."""
        machine = self.machine()
        return turns_of(machine.place(self.counts[-1]), machine.cores) > 1

    def in_turns(self, measured: Figures) -> Figures:
        """What two ranks for each core of this machine take, beside what would be foretold of them."""
        cores, spec = allowed_cpus(), self.spec
        ranks = LINKED * cores
        if ranks > min(MOST_RANKS, spec.batch) or not self.pool.launch.is_here:
            why = f"that needs {ranks} ranks on this host, each with a row of the batch"
            self.run.post(Note(text=f"what taking turns costs was not measured: {why}"))
            return measured
        self.run.post(Phase(text="two ranks for each core"))
        self._asked, self._is_crowded = self._to_ask, True
        arguments = {name: getattr(spec, name) for name in ("batch", "sync_every", "repeats", "seed")}
        timed = self.ask(run_time_ways, ranks, task=self.task, ways=(*COSTED, ASYNC), **arguments)
        alike = LINKED * gradient_seconds(measured, spec.batch / ranks)
        measured = replace(measured, crowding=max(1.0, timed["compute"]["gradient"] / alike))
        on = Machine(cores=cores)
        late = {
            way: statistics.median(took) - float(step_of(measured, way, on.place(ranks), on, spec.sync_every).seconds)
            for way, took in timed["steps"].items()
        }
        return replace(measured, late={way: max(0.0, seconds) for way, seconds in late.items()})

    def forward(self, event: Event) -> None:
        """Of a program's events, what the study shows: how many of them there will be is known, so is the whole."""
        if isinstance(event, Progress):
            done = (self._asked - 1 + event.done / event.total) / self._to_ask
            self.run.post(Progress(done=round(1000 * done), total=1000))
        elif not (self._is_crowded and isinstance(event, Note)):  # that ranks take turns is what is measured then
            self.pass_on(event)


def foretell(measured: Figures, counts: list[int], machine: Machine, sync_every: int) -> list[Simulated]:
    """Every way at every number of workers that it can have."""
    return [
        simulate(measured, way, workers, machine, sync_every)
        for workers in counts
        for way in WAYS
        if way != SUBNETS or workers in measured.subnets
    ]


def thinned(counts: list[int]) -> list[int]:
    """Of many numbers of workers, some: the outer ones, and between them evenly."""
    if len(counts) <= MOST_SIZES:
        return counts
    last = len(counts) - 1
    return [counts[round(place * last / (MOST_SIZES - 1))] for place in range(MOST_SIZES)]


# On a rank. What needs torch is imported there, never in the kernel.


def run_alone(context: Context, task: Task, batch: int, repeats: int, seed: int) -> Any:
    """Steps of the network as it is, by what trains it: on the whole batch, with torch's own threads."""
    import torch

    from ..costs.sampling import sample_alone
    from ..preparing.prepare import prepare
    from ..programs import build
    from ..training.spec import Baseline

    prepared = prepare(task, batch)
    model, _, step_of = build(prepared, Baseline(batch=batch, seed=seed), is_trial=True)
    step, rows = step_of(model), torch.randperm(len(prepared.x))[:batch]
    return sample_alone(context, lambda: step(rows), repeats)


def run_parts(context: Context, **arguments: Any) -> Any:
    """See `costs.sampling.sample_parts`."""
    from ..costs.sampling import sample_parts

    return sample_parts(context, **arguments)
