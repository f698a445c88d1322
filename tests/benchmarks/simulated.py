"""The simulator beside real trainings: between two hosts, and where ranks take turns on too few cores.

What it says of each way is made first, from single steps and messages; then each way trains the same task, and seconds
over steps are what is measured. Two network namespaces with half of the CPUs each stand for two hosts, joined by a slow
link, which is measured. The model there is so wide that the exchange is most of a step.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cooptim_lab import RankPool, Task, train_sharded, train_subnets
from cooptim_lab.data.datasets import digits
from cooptim_lab.data.holding import hold_out
from cooptim_lab.hardware import allowed_cpus
from cooptim_lab.scaling.here import SUBNETS, Simulated
from cooptim_lab.studies.simulate import measure_and_simulate
from tests.benchmarks.costs import BATCH, MEGABITS, PLACES, make_task
from tests.benchmarks.rows import Row
from tests.hosts import can_make_hosts, two_hosts

APART, IN_TURNS = 0.15, 0.30
"""By which part a prediction may be off: between hosts; where ranks take turns."""
ROUNDS, EPOCHS = 3, 10
"""Of what takes turns; a multiple of the steps between meetings."""
SLOW_SECONDS, MANY = 0.1, 10
"""A way whose steps take longer is trained for one epoch, else for so many."""


def rows() -> list[Row]:
    """A row for each way at each number of workers."""
    if not can_make_hosts():
        raise SystemExit("network namespaces need root, iproute2 and permission")
    return [*between_hosts(), *in_turns()]


def between_hosts() -> Iterator[Row]:
    """1 + 1 and 2 + 2 ranks."""
    task = make_task()
    with tempfile.TemporaryDirectory() as folder, two_hosts(Path(folder), MEGABITS, apart=True) as hosts:
        for workers, (a, b) in PLACES.items():
            with RankPool(hosts=f"{hosts.a}:{a},{hosts.b}:{b}", launcher=hosts.launcher()) as pool:
                run = measure_and_simulate(task, pool=pool, workers=(workers,), hosts=2, cores=a, batch=BATCH)
                for said in run.wait():
                    took = [trained(task, pool, said, epochs=1 if said.seconds > SLOW_SECONDS else MANY)]
                    yield as_row(said, took, f"{a} + {b} ranks, {MEGABITS} Mbit/s", APART)


def in_turns() -> Iterator[Row]:
    """Two and four ranks for each core, the built-in task."""
    task, counts = digits(), (2 * allowed_cpus(), 4 * allowed_cpus())
    with RankPool() as pool:
        rounds = []
        for _ in range(ROUNDS):
            said = {(row.way, row.workers): row for row in measure_and_simulate(task, pool=pool, workers=counts).wait()}
            rounds.append({key: (row, trained(task, pool, row, epochs=EPOCHS)) for key, row in said.items()})
        for key, (row, _) in rounds[0].items():
            ratios = [of[key][0].seconds / of[key][1] for of in rounds]
            took = [of[key][1] for of in rounds]
            yield as_row(row, took, f"{row.workers} ranks on {allowed_cpus()} cores", IN_TURNS, ratios)


def trained(task: Task, pool: RankPool, said: Simulated, epochs: int) -> float:
    """Seconds a step of a real training by that way."""
    if said.way == SUBNETS:
        run = train_subnets(task, pool=pool, subnets=said.workers, workers=said.workers, epochs=epochs, batch=BATCH)
    else:
        more = {"sync_every": 10} if said.way == "local" else {}
        more |= {"workers": said.workers, "aggregate": said.way}
        run = train_sharded(task, pool=pool, epochs=epochs, batch=BATCH, **more)
    return float(run.wait().seconds) / (epochs * steps_of(task))


def steps_of(task: Task) -> int:
    """Of an epoch."""
    x = task.data()[0] if callable(task.data) else task.data[0]
    trained_on, _ = hold_out(len(x), task.held_out, task.seed)
    return math.ceil(len(trained_on) / BATCH)


def as_row(said: Simulated, took: list[float], where: str, off: float, ratios: list[float] | None = None) -> Row:
    """Ours is what was foretold, other what was measured."""
    measured = statistics.median(took)
    ratio = statistics.median(ratios) if ratios else said.seconds / measured
    return Row(
        name=f"{said.way}, {where}",
        ours=said.seconds * 1e3,
        other=measured * 1e3,
        unit="ms",
        ratio=ratio,
        reach=f"{1 - off:g} to {1 + off:g}",
        holds=abs(ratio - 1) <= off,
        note=f"a step, foretold ({said.low * 1e3:.3g} to {said.high * 1e3:.3g} ms, 90 %) beside a training's",
    )
