"""A notebook's process that has a pool of many ranks, and what they cost it: a part of the benchmark `many`.

    python -m tests.benchmarks.many_kernel RANKS [voices]

A process of its own for each number of ranks, so that no figure holds what an earlier one has left. It prints one JSON
object; the ranks sleep and report, and compute nothing. With `voices` they are stand-ins (voices.py), over TCP.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from cooptim_lab.errors import RankFailure
from cooptim_lab.ranks.forking import shared_nursery
from cooptim_lab.ranks.pool import RankPool
from cooptim_lab.runs import store
from cooptim_lab.runs.events import Event
from cooptim_lab.runs.run import Run
from tests.benchmarks.rank_tasks import nothing, report_at_once, report_once, report_steadily, sleep

STARTS, TRIPS, KILLS, STOPS = 3, 101, 3, 3
STEADY_SECONDS, EVERY_SECONDS = 10.0, 0.1
BURST_EVENTS = 20_000
"""Of all ranks together."""
IDLE_SECONDS = 5.0
SETTLE_SECONDS = 1.0
"""After a start: what greets ranks ends by then."""

VOICES = Path(__file__).with_name("voices.py")

Figures = dict[str, float]


class Heard:
    """When the events of ranks reached this process, and how long after they were made."""

    def __init__(self, run: Run[Any]) -> None:
        self.at: list[float] = []
        self.late: list[float] = []
        run.log.listen(self._hear)

    def _hear(self, event: Event) -> None:
        if event.rank is not None:
            now = time.time()
            self.at.append(now)
            self.late.append(now - event.time)


def measure(ranks: int) -> Figures:
    """All that is asked of a pool of so many ranks, in this process."""
    nursery = shared_nursery()
    assert nursery is not None
    assert nursery.wait_until_ready()
    before = of_this_process()
    starts = []
    for _ in range(STARTS):
        pool = RankPool(ranks)
        starts.append(seconds_of(pool.start))
        if len(starts) < STARTS:
            pool.close()
    time.sleep(SETTLE_SECONDS)
    with pool:
        found = {"ready": statistics.median(starts), "ready_worst": max(starts)}
        found |= {name: value - before[name] for name, value in of_this_process().items()}
        found |= trips(pool) | asked(pool) | memory(pool) | idle(pool)
        found |= steady(pool) | burst(pool)
        found |= {f"after_{name}": value - before[name] for name, value in of_this_process().items()}
        found |= stops(pool) | kills(pool)
        found["leave"] = seconds_of(pool.stop)
    return found


def measure_voices(ranks: int) -> Figures:
    """What of it is the kernel's alone, of stand-ins."""
    launcher = f"{sys.executable} {VOICES} {{workers}}"
    before = of_this_process()
    with RankPool(ranks, launcher=launcher, interface="127.0.0.1") as pool:
        found = {"ready": seconds_of(pool.start)}
        time.sleep(SETTLE_SECONDS)
        found |= {name: value - before[name] for name, value in of_this_process().items()}
        found |= trips(pool) | steady(pool) | burst(pool) | stops(pool)
        found |= {f"after_{name}": value - before[name] for name, value in of_this_process().items()}
        found["leave"] = seconds_of(pool.stop)
    return found


def seconds_of(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def of_this_process() -> Figures:
    me = psutil.Process()
    memory = me.memory_full_info()
    return {
        "private": memory.uss / 2**20,
        "pss": memory.pss / 2**20,
        "descriptors": me.num_fds(),
        "threads": me.num_threads(),
    }


def trips(pool: RankPool) -> Figures:
    """A job that does nothing, and back: what ranks take, and what this process works meanwhile."""
    pool.run(nothing)
    cpu = time.process_time()
    took = sorted(seconds_of(lambda: pool.run(nothing)) * 1e3 for _ in range(TRIPS))
    return {
        "trip": statistics.median(took),
        "trip_95": took[int(0.95 * TRIPS)],
        "trip_cpu": (time.process_time() - cpu) * 1e3 / TRIPS,
    }


def asked(pool: RankPool) -> Figures:
    """How all ranks are, which each answers beside its job: a message there and back, and no job."""
    took = sorted(seconds_of(pool.status) * 1e3 for _ in range(TRIPS // 5))
    known = sum(row["threads"] is not None for row in pool.status())
    return {"asked": statistics.median(took), "asked_known": known}


def memory(pool: RankPool) -> Figures:
    """MiB of the ranks, which have run small jobs and have not computed."""
    of_ranks = [psutil.Process(pid).memory_full_info() for pid in pool.processes.values()]
    return {
        "rank_private": statistics.median(each.uss for each in of_ranks) / 2**20,
        "ranks_total": sum(each.pss for each in of_ranks) / 2**20,
    }


def idle(pool: RankPool) -> Figures:
    """CPU-seconds of all ranks, and of this process, while nothing is asked of them."""
    processes = [psutil.Process(pid) for pid in pool.processes.values()]

    def spent() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    began, cpu = spent(), time.process_time()
    time.sleep(IDLE_SECONDS)
    return {"idle_ranks": spent() - began, "idle_kernel": time.process_time() - cpu}


def on_ranks(pool: RankPool, program: Callable[..., Any], *, kept: bool = False, **arguments: Any) -> Run[Any]:
    run: Run[Any] = Run("many", {})
    if kept:
        store.keep(run)
    pool.submit(run, program, arguments, workers=pool.workers, finish=lambda run, values, stopped: run.finish(values))
    return run


def steady(pool: RankPool) -> Figures:
    """Ten reports a second from every rank, kept on disk."""
    cpu = time.process_time()
    run = on_ranks(pool, report_steadily, kept=True, seconds=STEADY_SECONDS, every=EVERY_SECONDS)
    heard = Heard(run)
    told = sum(run.wait())
    assert told == len(heard.at), f"{told} events were told, {len(heard.at)} arrived"
    late, size = sorted(heard.late), store.path(run.id).stat().st_size
    return {
        "steady_rate": len(heard.at) / (heard.at[-1] - heard.at[0]),
        "steady_late": statistics.median(late) * 1e3,
        "steady_late_95": late[int(0.95 * len(late))] * 1e3,
        "steady_cpu": (time.process_time() - cpu) / STEADY_SECONDS,
        "event_bytes": size / told,
    }


def burst(pool: RankPool) -> Figures:
    """As many as are taken: how many a second, and what each costs this process, kept on disk."""
    each = BURST_EVENTS // pool.workers
    cpu = time.process_time()
    run = on_ranks(pool, report_at_once, kept=True, count=each)
    heard = Heard(run)
    run.wait()
    assert len(heard.at) == each * pool.workers
    return {
        "burst_rate": len(heard.at) / (heard.at[-1] - heard.at[0]),
        "event_cpu": (time.process_time() - cpu) / len(heard.at) * 1e6,
    }


def stops(pool: RankPool) -> Figures:
    """From the wish to stop to the end of a run that looks at it every 50 ms."""

    def stop() -> float:
        run = on_ranks(pool, sleep, seconds=60.0)
        time.sleep(0.5)
        began = time.perf_counter()
        run.stop()
        assert run.join(10.0)
        return time.perf_counter() - began

    return {"stop": statistics.median(stop() for _ in range(STOPS))}


def kills(pool: RankPool) -> Figures:
    """A rank is killed in the middle of a job: until the run has ended, and until all ranks answer again."""
    told, whole, draw = [], [], random.Random(0)
    for _ in range(KILLS):
        run = on_ranks(pool, report_once)
        run.wait()
        run = on_ranks(pool, sleep, seconds=60.0)
        time.sleep(0.5)
        rank, pid = draw.choice(sorted(pool.processes.items()))
        began = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        assert run.join(30.0)
        told.append(time.perf_counter() - began)
        assert isinstance(run.error, RankFailure), run.error
        assert run.error.rank == rank
        pool.run(nothing)
        whole.append(time.perf_counter() - began)
    return {"lost": statistics.median(told), "whole": statistics.median(whole)}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        os.environ[store.PLACE] = home
        print(json.dumps((measure_voices if "voices" in sys.argv else measure)(int(sys.argv[1]))))
