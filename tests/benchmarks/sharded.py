"""Shards beside DistributedDataParallel on gloo and a flat Allreduce by hand; what watching costs; memory; the server.

Steps are of a 64-W-W-10 perceptron on noise, 64 rows of every rank, SGD with momentum, float32. Ours is the run's own
clock over its steps, with recording, breakdown and live view on; a peer's is its loop alone. All are means over the
steps of a round, in which each has its turn. A few percent are less than rounds differ: there are many of them, ours is
compared with the others of its round, and the median of these ratios counts.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import comm
import numpy as np
import psutil
import torch
from cooptim_magics.chart import LiveChart
from cooptim_magics.view import Follower
from jupyter_client.session import Session
from matplotlib.figure import Figure
from torch import nn
from torch.nn.functional import cross_entropy

from cooptim_lab import Task, train_sharded
from cooptim_lab.hardware import allowed_cpus
from cooptim_lab.ranks.pool import RankPool
from cooptim_lab.runs.result import Result
from cooptim_lab.runs.store import PLACE
from cooptim_lab.shards.aggregate import Replica, Settings, make_aggregator
from cooptim_lab.shards.deal import shard_batches
from tests.benchmarks import peers
from tests.benchmarks.rows import REPEATS, Row
from tests.support import learning_by

HELD_OUT, BATCH = 0.2, peers.BATCH
PER_EPOCH = round(peers.ROWS * (1 - HELD_OUT)) // (2 * BATCH)
EPOCHS = {64: 20, 256: 9, 1024: 1}
"""By hidden width: about a second, so that what slows the machine for a while slows all of a round."""
ROUNDS, DDP_STEPS = 41, 50
REACHES = {64: (0.3, 1.1), 256: (0.6, 1.1), 1024: (0.7, 1.05)}
"""Over DDP's step, over that of a flat Allreduce by hand."""
WATCHING = 1.03
SERVER_WIDTH, SERVER_STEPS, SIZES, CPUS = 256, 40, (2, 4, 8), allowed_cpus()
PLOT = Path("build") / "sharded.png"
MANY, FEATURES, MEMORY_BATCH, MEMORY_REACH = 10_000_000, 16, 8192, 150
"""Rows and columns of the mapped file, rows of a rank in a step, MiB above idle that it may take."""
LOOK_SECONDS = 0.02


def rows() -> list[Row]:
    """All rows of the section on shards in README."""
    with tempfile.TemporaryDirectory() as folder, at_home_in(folder):
        with RankPool(2) as pool, Ddp(Path(folder)) as ddp:
            steps = [row for width in REACHES for row in step_rows(pool, ddp, width)]
        return [*steps, *server_rows(), memory_row(Path(folder))]  # the last: the file is being written for a while


@contextlib.contextmanager
def at_home_in(folder: str) -> Iterator[None]:
    """Runs are recorded there, as they always are, and not among the user's own."""
    before = os.environ.get(PLACE)
    os.environ[PLACE] = folder
    try:
        yield
    finally:
        os.environ.pop(PLACE)
        if before is not None:
            os.environ[PLACE] = before


# Steps.


def step_rows(pool: RankPool, ddp: Ddp, width: int) -> list[Row]:
    """Ours over DDP, over the loop by hand, and over our engine with nobody watching."""
    epochs = EPOCHS[width]
    result = watched(pool, width, epochs)
    buckets = int(found[1]) if (found := re.search(r"(\d+) buckets", result.engine)) else 1
    seconds = in_turns(
        {
            "ours": lambda: step_seconds(watched(pool, width, epochs)),
            "DDP": lambda: ddp.step_seconds(width, DDP_STEPS),
            "hand": lambda: pool.run(peers.by_hand, width=width, steps=epochs * PER_EPOCH)[0],
            "bare": lambda: pool.run(unwatched, width=width, epochs=epochs, buckets=buckets)[0],
        },
        ROUNDS,
    )
    over_ddp, over_hand = REACHES[width]
    others = {
        "DDP": ("DDP on gloo", over_ddp, f"{result.engine}; "),
        "hand": ("a flat Allreduce by hand", over_hand, "on the same ranks; "),
        "bare": ("the same with recording, live view and breakdown off", WATCHING, "the engine in a bare loop; "),
    }
    return [
        paired_row(f"hidden width {width}, a step beside {of}", seconds["ours"], seconds[name], reach, note)
        for name, (of, reach, note) in others.items()
    ]


def paired_row(name: str, ours: Sequence[float], other: Sequence[float], reach: float, note: str) -> Row:
    """Of seconds by round. The ratio is the median of the rounds' own."""
    low, ratio, high = statistics.quantiles((one / two for one, two in zip(ours, other, strict=True)), n=4)
    return Row(
        name=name,
        ours=statistics.median(ours) * 1e3,
        other=statistics.median(other) * 1e3,
        unit="ms",
        ratio=ratio,
        reach=f"<= {reach:.2f}",
        holds=ratio <= reach,
        note=f"{note}the median ratio of {len(ours)} rounds, quartiles {low:.2f} and {high:.2f}",
    )


def take_turns(ways: dict[str, Callable[[], float]], rounds: int = REPEATS) -> tuple[dict[str, float], dict[str, str]]:
    """Medians of rounds in which each has its turn, and their ranges in milliseconds."""
    seconds = in_turns(ways, rounds)
    spread = {name: f"{min(known) * 1e3:.3g} to {max(known) * 1e3:.3g}" for name, known in seconds.items()}
    return {name: statistics.median(known) for name, known in seconds.items()}, spread


def in_turns(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each gave, by round: each has its turn, another one first in each."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[name].append(ways[name]())
    return seconds


def step_seconds(result: Result) -> float:
    return result.seconds / result.steps


def task_of(width: int, optimizer: Callable[..., torch.optim.Optimizer] = peers.optimizer) -> Task:
    return Task(
        model=partial(peers.perceptron, width),
        data=peers.data,
        optimizer=optimizer,
        held_out=HELD_OUT,
        name="noise",
    )


def watched(
    pool: RankPool, width: int, epochs: int, way: str = "allreduce",
    optimizer: Callable[..., torch.optim.Optimizer] = peers.optimizer,
) -> Result:  # fmt: skip
    """Ours as a notebook runs it: on record, and followed by a live chart."""
    task = task_of(width, optimizer)
    run = train_sharded(task, pool=pool, workers=2, aggregate=way, batch=2 * BATCH, epochs=epochs)
    with messages_made():
        chart = LiveChart(title=run.title)
        watcher = threading.Thread(target=Follower(run, chart).until_the_end)
        watcher.start()
        result = run.wait()
        watcher.join()
        chart.close()
    return result


@contextlib.contextmanager
def messages_made() -> Iterator[None]:
    """Widgets serialise and sign what they would send, as in a kernel; there is nobody to receive it."""
    session = Session(key=b"benchmark")

    class Unheard(comm.DummyComm):
        def publish_msg(self, msg_type: str, data: Any = None, metadata: Any = None, buffers: Any = None, **more: Any):
            content = {"data": data or {}, "comm_id": self.comm_id, **more}
            session.serialize(session.msg(msg_type, content, metadata=metadata))

    before, comm.create_comm = comm.create_comm, Unheard
    try:
        yield
    finally:
        comm.create_comm = before


def unwatched(context: Any, width: int, epochs: int, buckets: int) -> float:
    """On a rank: the engine's own steps over the same batches; nothing is kept, timed, told or asked."""
    torch.manual_seed(0)
    size, rank = context.size, context.rank
    replica = Replica(peers.perceptron(width), learning_by(peers.optimizer))
    aggregator = make_aggregator("allreduce", context.comm, replica, Settings(), Deaf())
    aggregator.use_buckets(buckets)
    x, y = (part[: size * PER_EPOCH * BATCH][rank::size].clone() for part in peers.data())

    def step(part: Any) -> None:
        aggregator.step(lambda: cross_entropy(replica.model(x[part.rows]), y[part.rows]), part.weight, False)

    def batches(epoch: int) -> list[Any]:
        return shard_batches([len(x)] * size, rank, size * BATCH, 0, epoch)

    for part in batches(0)[: peers.WARM_UP_STEPS]:
        step(part)
    context.comm.Barrier()
    began = time.perf_counter()
    for part in itertools.chain.from_iterable(map(batches, range(epochs))):
        step(part)
    return (time.perf_counter() - began) / (epochs * PER_EPOCH)


class Deaf:
    """In a Timeline's place: whatever it is told, it notes nothing."""

    is_due = False

    def called(self, began: float, kind: str, sent: int) -> None:
        """Nothing."""

    def step(self) -> None:
        """Nothing."""


class Ddp:
    """Two ranks of torch.distributed that stay and measure when asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Ddp:
        command = [sys.executable, "-m", "tests.benchmarks.peers", str(self._folder / "meeting")]
        lo = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
        self._ranks = [
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **lo, "OMP_NUM_THREADS": "1", "RANK": str(rank), "WORLD_SIZE": "2"},
            )
            for rank in range(2)
        ]
        self.step_seconds(64, 1)  # until then they import torch
        return self

    def __exit__(self, *exception: object) -> None:
        for rank in self._ranks:
            rank.stdin.close()
        for rank in self._ranks:
            try:
                rank.wait(10)
            except subprocess.TimeoutExpired:
                rank.kill()
                rank.wait()
            rank.stdout.close()

    def step_seconds(self, width: int, steps: int) -> float:
        for rank in self._ranks:
            rank.stdin.write(f"{width} {steps}\n")
            rank.stdin.flush()
        return float(self._ranks[0].stdout.readline())


# Memory.


def memory_row(folder: Path) -> Row:
    """Of four ranks that train on a file of many rows: what each has at most, above what it had before."""
    with RankPool(4) as pool:
        pool.run(use_torch)
        processes = [psutil.Process(row["pid"]) for row in pool.status()]
        idle = [memory(process) for process in processes]
        few = Task(model=small, data=some, optimizer=peers.optimizer, name="a few rows")
        train_sharded(few, pool=pool, workers=4, aggregate="allreduce", epochs=1).wait()
        trained = [memory(process) for process in processes]
        many = Task(model=small, data=mapped(folder), optimizer=peers.optimizer, name=f"{MANY} rows of a file")
        run = train_sharded(many, pool=pool, workers=4, aggregate="allreduce", batch=4 * MEMORY_BATCH, epochs=1, seed=1)
        most = trained
        while not run.join(LOOK_SECONDS):
            now = [memory(process) for process in processes]
            most = [Memory(*map(max, zip(*pair, strict=True))) for pair in zip(most, now, strict=True)]
        result = run.wait()
    above = growth(idle, most)
    mib = MANY * (FEATURES * 4 + 1) / 2**20
    return Row(
        name="10^7 rows of a mapped file, M = 4: memory of the largest rank above idle",
        ours=max(above),
        other=mib,
        unit="MiB",
        ratio=max(above) / mib,
        reach=f"ours <= {MEMORY_REACH} MiB",
        holds=max(above) <= MEMORY_REACH,
        note=f"the larger of its own pages ({above.own:.0f}) and the resident ones ({above.resident:.0f}, those of the "
        f"file among them), looked at every {LOOK_SECONDS * 1e3:.0f} ms; a training of few rows takes "
        f"{max(growth(idle, trained)):.0f}, the file {max(growth(trained, most)):.0f} on top; other: the file. "
        f"{result.steps} steps of {4 * MEMORY_BATCH} rows in {result.seconds:.1f} s, and a score of the held-out fifth",
    )


class Memory(NamedTuple):
    """Of a process: what is its alone, and what is resident, shared and mapped too. Bytes, or MiB more than before."""

    own: float
    resident: float


def memory(process: psutil.Process) -> Memory:
    full = process.memory_full_info()
    return Memory(full.uss, full.rss)


def growth(before: Sequence[Memory], after: Sequence[Memory]) -> Memory:
    """MiB, of each the rank's in which it is largest."""
    return Memory(
        max(b.own - a.own for a, b in zip(before, after, strict=True)) / 2**20,
        max(b.resident - a.resident for a, b in zip(before, after, strict=True)) / 2**20,
    )


def some() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1000, FEATURES, generator=generator), torch.randint(peers.CLASSES, (1000,), generator=generator)


def mapped(folder: Path) -> tuple[np.memmap, np.memmap]:
    """X (MANY, FEATURES) float32 and y (MANY,) uint8, each in a file."""
    random, piece = np.random.default_rng(0), MANY // 10
    x = np.memmap(folder / "x", "float32", "w+", shape=(MANY, FEATURES))
    y = np.memmap(folder / "y", "uint8", "w+", shape=(MANY,))
    for start in range(0, MANY, piece):
        x[start : start + piece] = random.random((piece, FEATURES), dtype=np.float32)
        y[start : start + piece] = random.integers(peers.CLASSES, size=piece, dtype=np.uint8)
    return x, y


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, peers.CLASSES))


def use_torch(context: Any) -> float:
    return float(torch.ones(3).sum())


# The server.


def server_rows() -> list[Row]:
    """The way by a server beside `allreduce`, by how many ranks there are; the plot is written to `PLOT`.

    n bytes of gradient cross 2 (M - 1) times either way: at the server all of them, n (M - 1) in and as many out; in a
    ring 2 n (M - 1) / M of them at every rank. Between hosts the server's link decides. In one memory the sums are the
    same, and what is left is how ranks follow one another: by a server in two meetings, between which one takes the
    step alone, and where there are more ranks than cores a meeting lasts until all have had a turn.
    """
    found, medians = [], []
    for size in SIZES:
        last: dict[str, Result] = {}
        with RankPool(size) as pool:
            pool.run(use_torch)
            ways = {way: partial(aggregated, pool, way, size, last) for way in ("server", "allreduce")}
            median, spread = take_turns(ways)
        medians.append(median)
        found.append(server_row(size, median, spread, last))
    plot(medians)
    return found


def server_row(size: int, median: dict[str, float], spread: dict[str, str], last: dict[str, Result]) -> Row:
    numbers = last["server"].parameters * 4 / 1e6
    parts = "; ".join(f"{way} {spread[way]} ms, {told(result)}" for way, result in last.items())
    return Row(
        name=f"M = {size}: a step by the server beside allreduce, hidden width {SERVER_WIDTH}",
        ours=median["server"] * 1e3,
        other=median["allreduce"] * 1e3,
        unit="ms",
        ratio=median["server"] / median["allreduce"],
        reach="measured",
        holds=True,
        note=f"{parts}. {2 * (size - 1) * numbers:.2g} MB pass by the server in a step, by each rank of a ring "
        f"{2 * (size - 1) / size * numbers:.2g}; in one memory that is the same sum, and turns count: two meetings "
        f"with a step between them, against one, of {size} ranks on {CPUS} cores; plot in {PLOT}",
    )


def told(result: Result) -> str:
    """Of a step in the last round, where rank 0's time and the others' went."""
    parts = [
        [spent[name] / spent["steps"] * 1e3 for name in ("compute", "communication", "waiting")]
        for spent in result.breakdown
    ]
    others = [statistics.mean(part) for part in zip(*parts[1:], strict=True)]
    first, rest = ("/".join(f"{part:.2g}" for part in of) for of in (parts[0], others))
    return f"compute/communication/waiting {first} on rank 0, {rest} on the others"


def plot(medians: Sequence[dict[str, float]]) -> None:
    figure = Figure(figsize=(5.5, 3), layout="constrained")
    axes = figure.subplots()
    for way in medians[0]:
        axes.plot(SIZES, [1e3 * median[way] for median in medians], "o-", label=way)
    title = f"hidden width {SERVER_WIDTH}, {BATCH} rows of every rank, {CPUS} cores"
    axes.set(xlabel="M, ranks", ylabel="ms per step", title=title, xticks=SIZES)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, dpi=120)


def aggregated(pool: RankPool, way: str, size: int, last: dict[str, Result]) -> float:
    batch = size * BATCH
    epochs = -(-SERVER_STEPS * batch // round(peers.ROWS * (1 - HELD_OUT)))
    task = task_of(SERVER_WIDTH)
    last[way] = train_sharded(task, pool=pool, workers=size, aggregate=way, batch=batch, epochs=epochs).wait()
    return step_seconds(last[way])
