"""What the benchmark of ranks has them do.

A rank imports the module of its program: this one brings nothing but what the program needs, so that no figure of a
rank's memory holds the kernel's half of the kit.
"""

from __future__ import annotations

import statistics
import time

from cooptim_lab.comm.context import Context
from cooptim_lab.runs.events import Points

ALLREDUCE_COUNT, ALLREDUCE_TIMES = 25_000, 2000


def use_torch(context: Context) -> float:
    import torch

    return float(torch.ones(3).sum())


def nothing(context: Context) -> None:
    return None


def report_once(context: Context) -> None:
    context.report(Points(rank=context.rank, curve="here", x=(0.0,), y=(0.0,)))  # what a training tells first


def allreduce(context: Context) -> float:
    import numpy as np
    from mpi4py import MPI

    buffer, times = np.zeros(ALLREDUCE_COUNT, "f"), []
    for _ in range(ALLREDUCE_TIMES):
        began = time.perf_counter()
        context.comm.Allreduce(MPI.IN_PLACE, buffer)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def report_steadily(context: Context, seconds: float, every: float) -> int:
    """Sleep and report, as a training does that is watched; ranks do not do so in step. Returns how often."""
    began = time.monotonic() + every * context.rank / context.size
    count = 0
    while count * every < seconds and not context.stopping():
        time.sleep(max(0.0, began + count * every - time.monotonic()))
        report_once(context)
        count += 1
    return count


def report_at_once(context: Context, count: int) -> None:
    """Each a message of its own, as fast as they are taken."""
    for _ in range(count):
        report_once(context)


def sleep(context: Context, seconds: float, look: float = 0.05) -> None:
    """Until it is told to stop, at which it looks so often."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not context.stopping():
        time.sleep(look)
