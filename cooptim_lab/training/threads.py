"""How many threads a step is fastest with: tried before the clock, on a copy that is thrown away.

Torch's threads wait for each other by spinning at the end of every operation. On small networks that costs more than
they give, and where others have the CPUs, very much more. What is measured stays the framework's default; this only
says what that costs.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from ..levers.hardware import fewer
from .loop import Step

TURNS, STEPS = 3, 4
"""So often each number of threads has its turn, of so many steps; the first of a turn wakes the threads."""
MOST_SECONDS = 0.25
"""A turn ends then, after two steps, and there is no other; a first step that takes so long twice over has more to
compute than to wait for."""


def try_threads(
    build: Callable[[], Step[Any]], epoch_batches: Callable[[int], Sequence[Any]], threads: int
) -> tuple[tuple[int, float], ...]:
    """(threads, median seconds a step), `threads` first, then fewer; empty where there are none, or steps are long.

    In turns: what slows one slows the others.
    """
    counts = [threads, *fewer(threads)]
    if len(counts) == 1:
        return ()
    times: dict[int, list[float]] = {count: [] for count in counts}
    began = time.perf_counter()
    with torch.random.fork_rng():
        step, parts = build(), itertools.cycle(epoch_batches(0))
        try:
            for turn, count in itertools.product(range(TURNS), counts):
                if turn and time.perf_counter() - began > MOST_SECONDS * len(counts):
                    break
                torch.set_num_threads(count)
                first, *others = _turn(step, parts)
                if first > 2 * MOST_SECONDS:
                    return ()
                times[count] += others
        finally:
            torch.set_num_threads(threads)
    return tuple((count, statistics.median(times[count])) for count in counts)


def _turn(step: Step[Any], parts: Iterator[Any]) -> list[float]:
    """Seconds of each of some steps, two at the least."""
    took: list[float] = []
    while len(took) < 2 or (len(took) < STEPS and sum(took) < MOST_SECONDS):
        began = time.perf_counter()
        step(next(parts))
        took.append(time.perf_counter() - began)
    return took
