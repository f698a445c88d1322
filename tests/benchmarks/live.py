"""What it costs to watch: the whole view beside the same run unwatched, the sampler, an update, a long run's memory.

The view is a notebook's: its widgets serialise and sign what they would send (`messages_made`), hardware strip and all.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from unittest.mock import patch

import comm
import numpy as np
from cooptim_magics import strip, view
from cooptim_magics.chart import LiveChart
from cooptim_magics.curves import Curve
from cooptim_magics.view import Follower

from cooptim_lab import RankPool, train_sharded
from cooptim_lab.hardware.sampler import Sampler
from cooptim_lab.studies.intervals import ratio_interval

from .rows import Row
from .sharded import messages_made, task_of

PAIRS, EPOCHS, WIDTH, UPDATES_A_SECOND = 40, 60, 256, 10
TAKES, RATE = 300, 2.0
CURVES, POINTS, SHOWN = 8, 1000, 200
STEPS, TOLD_AT_ONCE = 1_000_000, 500


def rows() -> Iterator[Row]:
    yield the_view()
    yield the_sampler()
    yield from an_update()
    yield a_long_run()


def the_view() -> Row:
    """The training seconds of a run that is watched, over those of one that is not, in pairs, the first by chance."""
    ratios, seconds, order = list[float](), list[float](), random.Random(0)
    with RankPool(2) as pool:

        def train(*, is_watched: bool) -> float:
            run = train_sharded(task_of(WIDTH), pool=pool, workers=2, aggregate="allreduce", epochs=EPOCHS)
            if not is_watched:
                return run.wait().seconds
            with messages_made(), patch.object(view, "REFRESH_SECONDS", 1 / UPDATES_A_SECOND):
                chart = LiveChart(title=run.title)
                strip.watch.join()
                watcher = threading.Thread(target=Follower(run, chart).until_the_end)
                watcher.start()
                result = run.wait()
                watcher.join()
                strip.watch.leave()
                chart.close()
            return result.seconds

        train(is_watched=True)
        for _ in range(PAIRS):
            turns = [True, False]
            order.shuffle(turns)
            took = {is_watched: train(is_watched=is_watched) for is_watched in turns}
            ratios.append(took[True] / took[False])
            seconds.append(took[False])
    found, median = ratio_interval(ratios), statistics.median(ratios)
    between = f"{found.low:.4f} to {found.high:.4f}" if found else "unknown"
    plain = statistics.median(seconds)
    said = f"{PAIRS} pairs, mean between {between} (95 %); {UPDATES_A_SECOND} updates a second, 2 ranks, W = {WIDTH}"
    return Row("view", plain * median, plain, "s", median, "<= 1.01", median <= 1.01, said)


def the_sampler() -> Row:
    """CPU time of this process for a sample, times the samples of a second."""
    sampler = Sampler(dict)
    began = time.process_time()
    for _ in range(TAKES):
        sampler.take()
    share = (time.process_time() - began) / TAKES * RATE
    sampler.close()
    reach = 0.003
    return Row(
        "sampler", 100 * share, 100 * reach, "% of a core", share / reach, "<= 1", share <= reach, f"{RATE:g} Hz"
    )


def an_update() -> Iterator[Row]:
    """What the kernel computes, and sends, when 8 curves have grown."""
    noise = np.random.default_rng(0)
    columns = [(np.arange(POINTS, dtype=float), noise.normal(size=POINTS)) for _ in range(CURVES)]
    sent: list[int] = []

    class Heard(comm.DummyComm):
        def publish_msg(self, msg_type, data=None, metadata=None, buffers=None, **more):
            sent.append(sum(len(part) for part in buffers or ()) + len(repr(data)))

    with patch.object(comm, "create_comm", Heard):
        chart, took = LiveChart(), list[float]()
        for number in range(SHOWN):
            for _, y in columns:
                y[-1] = number
            curves = [Curve(f"c{place}", x, y) for place, (x, y) in enumerate(columns)]
            began = time.perf_counter()
            chart.show(curves, status=str(number))
            took.append(time.perf_counter() - began)
        spans = [curve["span"][2:] for curve in chart.curves]
        chart.close()
    ms, size = 1e3 * statistics.median(took), statistics.median(sent[1:]) / 1e3
    kept = all(span == [y.min(), y.max()] for span, (_, y) in zip(spans, columns, strict=True))
    note = f"{CURVES} curves of {POINTS} points; extremes {'kept' if kept else 'LOST'}"
    yield Row("update, time", ms, 1.0, "ms", ms, "<= 1", ms <= 1 and kept, note)
    yield Row("update, bytes", size, 6.0, "KB", size / 6.0, "<= 1", size <= 6.0, note)


LONG = f"""
import os, psutil
from cooptim_lab.runs.events import Points, Progress, Started
from cooptim_lab.runs.run import Run
from cooptim_magics.chart import LiveChart
from cooptim_magics.view import Follower

def rss():
    return psutil.Process().memory_info().rss / 2**20

from cooptim_lab.training.loop import MOST_POINTS
run = Run("baseline", {{}}, title="long")
run.post(Started(way="baseline", options={{}}, workers=1))
follower = Follower(run, LiveChart())
follower.refresh()
before = rss()
stride = {STEPS} // MOST_POINTS
for step in range(0, {STEPS}, {TOLD_AT_ONCE}):
    x = tuple(float(each) for each in range(step, step + {TOLD_AT_ONCE}, stride))
    run.post(Points(rank=0, curve="training loss", x=x, y=tuple(1.0 for _ in x)))
    run.post(Progress(rank=0, done=step, total={STEPS}))
    if step % ({TOLD_AT_ONCE} * 20) == 0:
        follower.refresh()
follower.refresh()
print(rss() - before)
"""


def a_long_run() -> Row:
    """The kernel's memory after all events of a run of 10⁶ steps, as often as ranks tell them, in a fresh process."""
    told = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, check=True)
    grown = float(told.stdout)
    note = f"{STEPS:,} steps, told {TOLD_AT_ONCE} at once"
    return Row("memory of a long run", grown, 60.0, "MiB", grown / 60.0, "<= 1", grown <= 60.0, note)
