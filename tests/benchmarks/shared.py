"""Shards in one memory beside what they were: steps, memory, and what crosses a link between two hosts.

Steps as in `sharded`: a 64-W-W-10 perceptron on noise, 64 rows of every rank, float32; ours on the run's own clock with
recording, breakdown and live view on, a peer's in its loop alone; the median of the rounds' own ratios.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import psutil
import torch
from torch import nn

from cooptim_lab import Task, train_sharded
from cooptim_lab.ranks.pool import RankPool
from cooptim_lab.runs.result import Result
from tests.benchmarks import peers
from tests.benchmarks.rows import Row
from tests.benchmarks.sharded import (
    BATCH,
    EPOCHS,
    PER_EPOCH,
    Ddp,
    aggregated,
    at_home_in,
    in_turns,
    paired_row,
    step_seconds,
    use_torch,
    watched,
)  # fmt: skip
from tests.hosts import Hosts, can_make_hosts, two_hosts

REACHES = {
    "SGD": (peers.optimizer, {64: 0.90, 256: 0.88, 1024: 0.83}),
    "Adam": (peers.adam, {64: 0.90, 256: 0.87, 1024: 0.78}),
}
"""Over a step of a flat Allreduce by hand, by optimizer and hidden width."""
OVER_DDP = {64: 0.13, 256: 0.22, 1024: 0.55}
ROUNDS, DDP_STEPS, CROWDED_ROUNDS = 11, 50, 9
CROWDED, OVER_SERVER = 4, 0.7
MANY, MEMORY_RANKS, MEMORY_EPOCHS, OVER_ALLREDUCE = 3100, 4, 4, 0.5
"""Hidden width of a network of 10^7 parameters."""
LOOK_SECONDS = 0.05
MEGABITS, LINKED_WIDTH, LINKED_ROUNDS, PLACES = 50, 512, 3, ((2, 2), (1, 3))
LINK_BYTES, LINK_SECONDS = 0.6, 0.8


def rows() -> list[Row]:
    """All rows of README's section on one memory."""
    with tempfile.TemporaryDirectory() as folder, at_home_in(folder):
        with RankPool(2) as pool, Ddp(Path(folder)) as ddp:
            steps = [row for kind in REACHES for width in REACHES[kind][1] for row in step_rows(pool, ddp, kind, width)]
        return [*steps, crowded_row(), memory_row(), *link_rows(Path(folder))]


def step_rows(pool: RankPool, ddp: Ddp, kind: str, width: int) -> Iterator[Row]:
    """Ours over the loop by hand, over DDP with its optimizer, and the floor: computing alone."""
    make, reaches = REACHES[kind]
    epochs = EPOCHS[width]
    watched(pool, width, epochs, "shared", make)
    ways = {
        "ours": lambda: step_seconds(watched(pool, width, epochs, "shared", make)),
        "hand": lambda: pool.run(peers.by_hand, width=width, steps=epochs * PER_EPOCH, make=make)[0],
        "alone": lambda: max(pool.run(peers.by_hand, width=width, steps=epochs * PER_EPOCH, make=make, alone=True)),
    }
    if kind == "SGD":
        ways["DDP"] = lambda: ddp.step_seconds(width, DDP_STEPS)
    seconds = in_turns(ways, ROUNDS)
    floor = statistics.median(seconds["alone"]) * 1e3
    shown = statistics.median(a / b for a, b in zip(seconds["alone"], seconds["hand"], strict=True))
    note = f"computing alone {floor:.3g} ms, {shown:.2f} of it; "
    name = f"hidden width {width}, {kind}, a step beside"
    yield paired_row(f"{name} a flat Allreduce by hand", seconds["ours"], seconds["hand"], reaches[width], note)
    if "DDP" in seconds:
        yield paired_row(f"{name} DDP on gloo", seconds["ours"], seconds["DDP"], OVER_DDP[width], "")


def crowded_row() -> Row:
    """More ranks than cores: beside the better of the two ways that were there before."""
    last: dict[str, Result] = {}
    with RankPool(CROWDED) as pool:
        pool.run(use_torch)
        ways = {way: partial(aggregated, pool, way, CROWDED, last) for way in ("shared", "server", "allreduce")}
        seconds = in_turns(ways, CROWDED_ROUNDS)
    best = min(("server", "allreduce"), key=lambda way: statistics.median(seconds[way]))
    name = f"{CROWDED} ranks that take turns, hidden width 256, a step beside {best}, the better of two"
    return paired_row(name, seconds["shared"], seconds[best], OVER_SERVER, "")


# Memory.


def memory_row() -> Row:
    """Of four ranks together while they train, by the kernel's proportional set size, above what they had before.

    Of each number of the network, allreduce has 4 on every rank (weight, gradient, two of Adam's), and while a gradient
    is computed a fifth; one memory a gradient on every rank, that fifth, and the other three once: 11 to 20.
    """
    took = {way: memory_of(way) for way in ("shared", "allreduce")}
    ours, other = took["shared"], took["allreduce"]
    numbers = sum(p.numel() for p in wide().parameters())
    return Row(
        name=f"{MEMORY_RANKS} ranks together, {numbers / 1e6:.3g} million parameters, Adam: memory beside allreduce",
        ours=ours,
        other=other,
        unit="MiB",
        ratio=ours / other,
        reach=f"<= {OVER_ALLREDUCE}",
        holds=ours / other <= OVER_ALLREDUCE,
        note=f"the median while they train, above idle (some 530); a number each is {numbers * 4 / 2**20:.0f} MiB",
    )


def memory_of(way: str) -> float:
    """MiB above idle, the sum of the ranks' proportional set sizes: the median of what was seen while they trained."""
    with RankPool(MEMORY_RANKS) as pool:
        pool.run(use_torch)
        processes = [psutil.Process(row["pid"]) for row in pool.status()]
        idle = together(processes)
        task = Task(model=wide, data=few, optimizer=peers.adam, held_out=0.2, name="many parameters")
        options = {"workers": MEMORY_RANKS, "aggregate": way, "batch": 4 * BATCH, "epochs": MEMORY_EPOCHS}
        run = train_sharded(task, pool=pool, **options)
        seen = []
        while not run.join(LOOK_SECONDS):
            if run.log.since(0) and is_training(run):
                seen.append(together(processes))
        run.wait()
    return statistics.median(seen) - idle


def together(processes: Sequence[psutil.Process]) -> float:
    """MiB: what they share counts once."""
    return sum(process.memory_full_info().pss for process in processes) / 2**20


def is_training(run: object) -> bool:
    """Whether the first point of the training has come: what is built before it is another matter."""
    return any(type(event).__name__ == "Points" for event in run.log.since(0))


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(64, MANY), nn.ReLU(), nn.Linear(MANY, MANY), nn.ReLU(), nn.Linear(MANY, 10))


def few() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = peers.data()
    return x[:4000], y[:4000]


# Two hosts.


def link_rows(folder: Path) -> list[Row]:
    """Ranks on two hosts, over a link of limited rate: bytes that cross it in a step, and a step's time."""
    return [row for places in PLACES for row in link_rows_of(folder, *places)]


def link_rows_of(folder: Path, a: int, b: int) -> list[Row]:
    """With `a` ranks on one and `b` on the other."""
    if not can_make_hosts():
        raise SystemExit("network namespaces need root, iproute2 and permission")
    seconds: dict[str, list[float]] = {"shared": [], "allreduce": []}
    sent: dict[str, list[float]] = {"shared": [], "allreduce": []}
    with (
        two_hosts(folder, MEGABITS, apart=True) as hosts,
        RankPool(hosts=f"{hosts.a}:{a},{hosts.b}:{b}", launcher=hosts.launcher()) as pool,
    ):
        pool.run(use_torch)
        for _ in range(LINKED_ROUNDS):
            for way in seconds:
                result, crossed = linked(hosts, pool, way)
                seconds[way].append(step_seconds(result))
                sent[way].append(crossed / result.steps)
    ours, other = (statistics.median(sent[way]) for way in ("shared", "allreduce"))
    name = f"{a} + {b} ranks, two hosts, {MEGABITS} Mbit/s, hidden width {LINKED_WIDTH}"
    return [
        Row(
            name=f"{name}: bytes over the link in a step beside allreduce",
            ours=ours / 1e6,
            other=other / 1e6,
            unit="MB",
            ratio=ours / other,
            reach=f"<= {LINK_BYTES}",
            holds=ours / other <= LINK_BYTES,
            note="as the interface counts them, both directions, all that the run sent",
        ),
        paired_row(f"{name}: a step beside allreduce", seconds["shared"], seconds["allreduce"], LINK_SECONDS, ""),
    ]


def linked(hosts: Hosts, pool: RankPool, way: str) -> tuple[Result, int]:
    task = Task(model=partial(peers.perceptron, LINKED_WIDTH), data=few, optimizer=peers.optimizer, name="noise")
    before = bytes_over(hosts)
    result = train_sharded(task, pool=pool, workers=4, aggregate=way, batch=4 * BATCH, epochs=1).wait()
    time.sleep(LOOK_SECONDS)
    return result, bytes_over(hosts) - before


def bytes_over(hosts: Hosts) -> int:
    """Both directions of the link, since it is there."""
    counters = psutil.net_io_counters(pernic=True)[hosts.device]
    return counters.bytes_sent + counters.bytes_recv
