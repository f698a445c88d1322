"""Before the clock of a sharded run: steps of a copy that is thrown away, and how a gradient is best sent."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from ..comm.context import Context
from ..comm.objects import allgather, barrier, bcast
from ..comm.timeline import Timeline
from ..preparing.building import on_trial
from ..runs.events import Note
from ..task import Task
from ..training.reporting import WARM_UP_STEPS
from .aggregate.shared import Shared
from .aggregate.synchronous import AllReduce
from .deal import SharedBatch
from .shard import Shard
from .stepping import ShardStep, build_step

OVERLAP_BYTES = 1 << 20
"""A bucket of the gradient is no smaller: below, starting another call costs more than it hides."""
MOST_BUCKETS = 8
TRIALS, WORTH = 7, 0.9
"""Steps by which the two are compared, and what part of the time is worth more calls: a smaller gain is noise."""


def warm_up(context: Context, task: Task, shard: Shard) -> int:
    """A few steps that do not count; of `allreduce`, how many buckets are fastest (else 1). Collective."""
    task = on_trial(task)
    shard = replace(shard, loss=task.loss or shard.loss)
    with torch.random.fork_rng():
        step = build_step(context, task, shard, Timeline(context.comm), is_trial=True)
        if isinstance(step.aggregator, Shared):
            step.aggregator.watch()
        parts = shard.batches(0)[:WARM_UP_STEPS]
        for part in itertools.islice(itertools.cycle(parts), WARM_UP_STEPS):
            step.take(part)
        buckets = _choose_buckets(context, shard, step, parts)
        step.aggregator.settle()
        step.aggregator.close()
    return buckets


def _choose_buckets(context: Context, shard: Shard, step: ShardStep, parts: Sequence[SharedBatch]) -> int:
    replica, aggregator = step.replica, step.aggregator
    many = min(MOST_BUCKETS, replica.count * replica.weights.element_size() // OVERLAP_BYTES)
    if not isinstance(aggregator, AllReduce) or context.size == 1 or many <= 1 or shard.spec.compress != "none":
        return 1
    if _repeats(context, step, aggregator, parts[0], many):
        return 1
    times: dict[int, list[float]] = {1: [], many: []}
    made = dict.fromkeys(times, 1)
    for i, count in itertools.product(range(TRIALS), times):  # in turn: what slows one slows the other
        aggregator.use_buckets(count)
        made[count] = aggregator.buckets  # the pieces of a network seldom make as many as were asked for
        barrier(context.comm)
        began = time.perf_counter()
        step.take(parts[i % len(parts)])
        times[count].append(time.perf_counter() - began)
    whole, overlapped = (statistics.median(each) for each in times.values())
    buckets = bcast(context.comm, many if overlapped < WORTH * whole else 1)
    if context.is_root:
        said = f"a step takes {whole * 1e3:.2g} ms with the gradient in one call, {overlapped * 1e3:.2g} ms with"
        calls = f"{made[buckets]} call{'s' * (made[buckets] > 1)}"
        context.report(Note(rank=0, text=f"allreduce, {calls}: {said} {made[many]} during backward", is_doubt=False))
    return buckets


def _repeats(context: Context, step: ShardStep, aggregator: AllReduce, part: SharedBatch, buckets: int) -> bool:
    """Whether gradients come in parts, on any rank, as a step shows that does not count."""
    aggregator.use_buckets(buckets)
    aggregator.is_trial = True
    step.take(part)
    aggregator.is_trial = False
    found = any(allgather(context.comm, aggregator.repeats))
    aggregator.use_buckets(1)
    return found
