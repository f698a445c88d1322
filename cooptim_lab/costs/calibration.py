"""Programs for ranks that measure what `costs` reckons with, and what it is to predict.

`calibrate` sends messages between pairs of ranks: once for a pool. `time_ways` takes steps of a task, by each way of
aggregating, and by none.
"""

from __future__ import annotations

import math
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..comm.context import Context
from ..comm.host import Meeting, find_host, share
from ..comm.timeline import Timeline
from ..comm.waiting import complete
from ..data.holding import hold_out
from ..data.rows import Rows, open_rows
from ..errors import InputError
from ..hardware import allowed_cpus
from ..preparing.building import build_model, on_trial
from ..preparing.scoring import loss_of
from ..runs.events import Progress
from ..shards.aggregate import Replica, Settings, make_aggregator, make_place
from ..task import Task
from .formulas import WAYS
from .links import Calibration, Compute, Link

SHORT_TRIPS, LONG_TRIPS = 200, 5
"""How often a short and a long message goes back and forth; the median counts."""
LEAST_BYTES, MOST_BYTES = 1 << 16, 1 << 22
LONG_SECONDS = 0.1
"""A message is long enough when it takes so many: what a network lets through in a burst is small beside it then."""
ROUND_SECONDS = 0.2
"""Steps of each kind in a round: as many as fit."""
MOST_STEPS = 1000
BATCHES = 8
"""Different parts of the data that the steps go through."""


def calibrate(context: Context) -> dict[str, Any] | None:
    """α and β between two ranks of one host, and of two hosts, where there are such; γ. On rank 0, else None.

    The first two ranks of the kind stand for all: links of one kind are taken to be alike.
    """
    comm = context.comm
    hosts = host_numbers(comm)
    inside = _first_pair(hosts, lambda a, b: a == b)
    between = _first_pair(hosts, lambda a, b: a != b)
    local = measure_link(comm, *inside) if inside else None
    remote = measure_link(comm, *between) if between else None
    cpus = min(comm.allgather(allowed_cpus()))
    meeting = measure_meeting(comm)
    gamma = measure_gamma() if context.is_root else 0.0
    meet(comm)
    if not context.is_root:
        return None
    return Calibration(local=local, between=remote, meeting=meeting, gamma=gamma, cpus=cpus).summary()


def host_numbers(comm: Any) -> list[int]:
    """By rank, the number of its host, in the order of their first ranks."""
    names = comm.allgather(socket.gethostname())
    order = list(dict.fromkeys(names))
    return [order.index(name) for name in names]


def _first_pair(hosts: Sequence[int], fits: Callable[[int, int], bool]) -> tuple[int, int] | None:
    pairs = ((a, b) for a in range(len(hosts)) for b in range(a + 1, len(hosts)) if fits(hosts[a], hosts[b]))
    return next(pairs, None)


def measure_link(comm: Any, one: int, other: int) -> Link:
    """What joins two ranks: half the way back and forth of a short message, and of a long one. Collective."""
    link = _Pair(comm, one, other).link() if comm.Get_rank() in (one, other) else None
    meet(comm)  # the others do not spin meanwhile
    return comm.bcast(link, root=one)


class _Pair:
    """One of two ranks that send each other messages; `first` decides how many and how long."""

    def __init__(self, comm: Any, first: int, second: int) -> None:
        self.comm = comm
        self.is_first = comm.Get_rank() == first
        self.peer = second if self.is_first else first

    def link(self) -> Link:
        alpha = self.median(self.trip, 1, SHORT_TRIPS)
        size = LEAST_BYTES
        while size < MOST_BYTES and self.median(self.trip, size, 1) < LONG_SECONDS:
            size *= 2
        beta = size / max(1e-9, self.median(self.trip, size, LONG_TRIPS) - alpha)
        both = size / max(1e-9, self.median(self.at_once, size, LONG_TRIPS) - alpha)
        return Link(alpha, beta, both)

    def median(self, action: Callable[[np.ndarray, np.ndarray], float], size: int, times: int) -> float:
        """Of an action's seconds, as the first of the two has them."""
        out, into = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        action(out, into)  # memory that was never touched, connections that are made at the first message
        took = np.array([statistics.median(action(out, into) for _ in range(times))])
        self.send(took) if self.is_first else self.receive(took)
        return float(took[0])

    def trip(self, out: np.ndarray, into: np.ndarray) -> float:
        """There and back, by two."""
        began = time.perf_counter()
        if self.is_first:
            self.send(out)
            self.receive(into)
        else:
            self.receive(into)
            self.send(out)
        return (time.perf_counter() - began) / 2

    def at_once(self, out: np.ndarray, into: np.ndarray) -> float:
        """There and back at the same time."""
        self.trip(out[:1], into[:1])  # so that both begin together
        began = time.perf_counter()
        requests = [self.comm.Irecv(into, source=self.peer), self.comm.Isend(out, dest=self.peer)]
        for request in requests:
            complete(request, out, into)
        return time.perf_counter() - began

    def send(self, array: np.ndarray) -> None:
        complete(self.comm.Isend(array, dest=self.peer), array)

    def receive(self, array: np.ndarray) -> None:
        complete(self.comm.Irecv(array, source=self.peer), array)


def measure_meeting(comm: Any) -> float:
    """Seconds of a meeting in shared memory, on the slowest host. Collective."""
    host = find_host(comm)
    room = Meeting(comm, host, share(comm, host, Meeting.room(len(host.ranks))), Timeline(comm))
    took = []
    for _ in range(SHORT_TRIPS):
        began = time.perf_counter()
        room.meet()
        took.append(time.perf_counter() - began)
    return max(comm.allgather(statistics.median(took)))


def measure_gamma() -> float:
    """Seconds per byte of adding a vector to another."""
    total, more, times = np.zeros(1 << 18, np.float32), np.ones(1 << 18, np.float32), []
    for _ in range(2 * LONG_TRIPS):
        began = time.perf_counter()
        np.add(total, more, out=total)
        times.append(time.perf_counter() - began)
    return statistics.median(times) / more.nbytes


def meet(comm: Any) -> None:
    """Wait for all ranks, without spinning for long."""
    complete(comm.Ibarrier())


# Steps.


@dataclass(frozen=True)
class Timed:
    """What `time_ways` measures, as rank 0 has it."""

    size: int
    """Bytes of what is exchanged."""
    hosts: tuple[int, ...]
    """By rank, the number of its host."""
    compute: Compute
    """Medians over the rounds."""
    steps: dict[str, tuple[float, ...]]
    """Seconds per step by way, of every round."""


def time_ways(
    context: Context, task: Task, batch: int, sync_every: int, repeats: int, seed: int, ways: Sequence[str] = WAYS
) -> dict[str, Any] | None:
    """Take steps of a task by each way, and by no way: all interleaved over the rounds. On rank 0, else None.

    The steps are those of training, over the same aggregators; what they train is thrown away. The gradient goes in one
    call, BatchNorm's statistics are not shared: what is measured is the exchange.

    Raises
    ------
    InputError
        When a batch has fewer rows than there are ranks.
    """
    if batch < context.size:
        raise InputError(f"batch = {batch}: {context.size} ranks have no row each; give {context.size} or more")
    comm = context.comm
    torch.manual_seed(seed)
    probe = build_model(task.model, seed)
    rows = open_rows(task, probe)
    trained, _ = hold_out(len(rows), task.held_out, task.seed)
    parts = _parts(rows, trained, context.rank, context.size, batch, seed)
    works = {way: _Work(context, task, seed, parts, way, sync_every) for way in ways}
    apart = works["allreduce"]
    actions: dict[str, Callable[[], None]] = {
        **{way: work.step for way, work in works.items()},
        "gradient": apart.gradient,
        "update": apart.replica.step if context.is_root else lambda: None,
        "step": apart.step_alone,
    }
    # A server that nobody waits for must answer all before it does anything else.
    ends = {way: work.aggregator.settle for way, work in works.items() if work.aggregator.tells_alone}
    counts = {
        name: _count(comm, action, sync_every if name == "local" else 1, ends.get(name, _nothing))
        for name, action in actions.items()
    }
    took: dict[str, list[float]] = {name: [] for name in actions}
    for done in range(repeats):
        for name, action in actions.items():
            took[name].append(_per_step(comm, action, counts[name], ends.get(name, _nothing)))
        if context.is_root:
            context.report(Progress(rank=0, done=done + 1, total=repeats))
    for work in works.values():
        work.aggregator.settle()
        work.aggregator.close()
    hosts = host_numbers(comm)
    if not context.is_root:
        return None
    compute = Compute(*(statistics.median(took[name]) for name in ("gradient", "update", "step")))
    steps = {way: tuple(took[way]) for way in ways}
    return asdict(Timed(apart.replica.weights.nbytes, tuple(hosts), compute, steps))


def _parts(rows: Rows, trained: Tensor, rank: int, ranks: int, batch: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """This rank's parts of some batches, as equal as they can be."""
    generator = torch.Generator().manual_seed(seed)
    size = min(batch, len(trained))
    drawn = [trained[torch.randperm(len(trained), generator=generator)[:size]] for _ in range(BATCHES)]
    return [rows.take(each[rank::ranks]) for each in drawn]


class _Work:
    """One way's replica, and its steps."""

    def __init__(
        self, context: Context, task: Task, seed: int, parts: list[tuple[Tensor, Tensor]], way: str, sync_every: int
    ) -> None:
        self.parts, self.done, self.ranks = parts, 0, context.size
        task = on_trial(task)
        timeline = Timeline(context.comm)
        place = make_place(way, context.comm, timeline)
        self.replica = Replica(build_model(task.model, seed), task, MOST_STEPS, place=place, is_trial=True)
        self.loss_function = loss_of(task, parts[0][1])
        settings = Settings(sync_every=sync_every)
        self.aggregator = make_aggregator(way, context.comm, self.replica, settings, timeline)

    def loss(self) -> Tensor:
        x, y = self.parts[self.done % len(self.parts)]
        self.done += 1
        return self.loss_function(self.replica.model(x), y)

    def step(self) -> None:
        self.aggregator.step(self.loss, 1 / self.ranks, False)

    def gradient(self) -> None:
        self.replica.backward(self.loss, 1 / self.ranks)

    def step_alone(self) -> None:
        """As if there were no other ranks."""
        self.gradient()
        self.replica.step()


def _nothing() -> None:
    pass


def _count(comm: Any, action: Callable[[], Any], multiple: int, end: Callable[[], Any]) -> int:
    """How many steps fit into a round, on every rank the same; the first ones warm up."""
    _per_step(comm, action, multiple, end)
    fitting = ROUND_SECONDS / (multiple * max(1e-9, _per_step(comm, action, multiple, end)))
    return multiple * max(1, min(MOST_STEPS // multiple, math.ceil(fitting)))


def _per_step(comm: Any, action: Callable[[], Any], steps: int, end: Callable[[], Any]) -> float:
    """Seconds per step, on the slowest rank; `end` is their end, not timed. Collective."""
    meet(comm)
    began = time.perf_counter()
    for _ in range(steps):
        action()
    mine = np.array([(time.perf_counter() - began) / steps])
    end()
    every = np.empty(comm.Get_size())
    complete(comm.Iallgather(mine, every), mine, every)
    return float(every.max())
