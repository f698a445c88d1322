"""What a step costs by server, allreduce, shared and local: predicted from α and β beside measured, over a slow link.

Two network namespaces stand for two hosts with half of the CPUs each, joined by a link of limited rate. The model is
so wide that the exchange is most of a step. What is predicted must lie within 20 % of what is measured, and the plot
shows where the central server loses to a ring: beside the exchange of the model, over sizes from bytes to megabytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cooptim_lab import RankPool, Task, measure_costs
from cooptim_lab.costs.formulas import WAYS, CostRow, crossing, exchange_seconds
from cooptim_lab.costs.links import Calibration
from cooptim_lab.runs.events import Calibrated, Points
from cooptim_lab.runs.run import Run
from tests.benchmarks.rows import Row
from tests.hosts import Hosts, can_make_hosts, two_hosts

MEGABITS, WIDTH, BATCH = 50, 512, 64
PLACES = {2: (1, 1), 4: (2, 2)}
"""Ranks on the two hosts, by their number."""
OFF, ROUNDS = 0.2, 9
PLOT = Path("build") / "costs.png"
COLOURS = {"server": "#0072B2", "allreduce": "#D55E00", "local": "#009E73", "shared": "#CC79A7", "ring": "#999999"}


def make_task() -> Task:
    """Digits, 64-512-512-10: 1.2 MB of gradient."""

    def model() -> Any:
        from torch import nn

        return nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))

    def data() -> Any:
        from sklearn.datasets import load_digits

        digits = load_digits()
        return (digits.data / 16).astype("float32"), digits.target

    return Task(model=model, data=data, name=f"digits, {WIDTH} wide")


def rows() -> list[Row]:
    """A row for each way at each number of workers; the plot is written to `PLOT`."""
    if not can_make_hosts():
        raise SystemExit("network namespaces need root, iproute2 and permission")
    with tempfile.TemporaryDirectory() as folder, two_hosts(Path(folder), MEGABITS, apart=True) as hosts:
        runs = [measure(hosts, workers) for workers in PLACES]
    plot(runs)
    return [as_row(row) for run in runs for row in run.wait()]


def measure(hosts: Hosts, workers: int) -> Run[list[CostRow]]:
    """On a pool of its own: of a larger one, the first ranks would be on one host."""
    a, b = PLACES[workers]
    with RankPool(hosts=f"{hosts.a}:{a},{hosts.b}:{b}", launcher=hosts.launcher()) as pool:
        run = measure_costs(make_task(), pool=pool, workers=(workers,), batch=BATCH, repeats=ROUNDS)
        run.wait()
    return run


def as_row(row: CostRow) -> Row:
    """Ours is the prediction, other the measurement."""
    a, b = PLACES[row.workers]
    return Row(
        name=f"{row.way}, {a} + {b} ranks, {row.bytes / 1e6:.3g} MB over {MEGABITS} Mbit/s",
        ours=row.predicted * 1e3,
        other=row.measured * 1e3,
        unit="ms",
        ratio=row.predicted / row.measured,
        reach=f"{1 - OFF:g} to {1 + OFF:g}",
        holds=abs(row.off) <= OFF,
        note=f"a step, predicted beside measured ({row.low * 1e3:.1f} to {row.high * 1e3:.1f} ms); plot: {PLOT}",
    )


def plot(runs: Sequence[Run[list[CostRow]]]) -> None:
    """Left a step over the number of workers, right one exchange over its size."""
    events = runs[-1].log.since(0)
    lines = {event.curve: (event.x, event.y) for event in events if isinstance(event, Points)}
    (links,) = (event.links for event in events if isinstance(event, Calibrated))
    measured = [row for run in runs for row in run.wait()]
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for way, (x, y) in lines.items():
        style = "--" if way == "ring" else "-"
        left.plot(x, [1e3 * value for value in y], style, color=COLOURS[way], label=f"{way}, predicted")
    for way in WAYS:
        own = [row for row in measured if row.way == way]
        y = [1e3 * row.measured for row in own]
        spread = [[1e3 * (row.measured - row.low) for row in own], [1e3 * (row.high - row.measured) for row in own]]
        places = [row.workers for row in own]
        left.errorbar(places, y, yerr=spread, fmt="o", capsize=3, color=COLOURS[way], label=f"{way}, measured")
    left.set(xlabel="workers, half of them on each host", ylabel="ms a step", ylim=(0, None))
    left.set_title(f"{measured[0].bytes / 1e6:.3g} MB of gradient, {MEGABITS} Mbit/s", fontsize=9, loc="left")
    sizes = np.geomspace(100, 1e8, 60)
    on, hosts = Calibration.from_summary(links), [0, 0, 1, 1]
    for way in ("server", "allreduce", "ring"):
        took = [1e3 * exchange_seconds(way, size, hosts, on) for size in sizes]
        right.loglog(sizes, took, "--" if way == "ring" else "-", color=COLOURS[way], label=way)
    least = crossing(hosts, on)
    if least is not None:
        right.axvline(least, color="grey", linewidth=0.8)
        said = f" the ring is faster\n from {least / 1e3:.3g} kB on"
        right.annotate(said, (least, right.get_ylim()[0]), fontsize=8, va="bottom")
    right.set(xlabel="bytes of gradient", ylabel="ms an exchange, predicted")
    right.set_title("4 workers, 2 + 2", fontsize=9, loc="left")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7)
    PLOT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOT, dpi=120)
