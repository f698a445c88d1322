"""Ranks as a service beside ipyparallel's engines under MPI, and beside a bare mpiexec program.

Every figure is a median of five; ours and the peer's are taken in turns.
"""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from cooptim_lab.hardware import find_mpiexec
from cooptim_lab.ranks.forking import shared_nursery
from cooptim_lab.ranks.pool import RankPool
from cooptim_lab.runs.run import Run
from tests.benchmarks.rank_tasks import ALLREDUCE_COUNT, ALLREDUCE_TIMES, allreduce, nothing, report_once, use_torch
from tests.benchmarks.rows import REPEATS, Row, interleave

WORKERS = 4
ALLREDUCE_RANKS = 2

BARE = f"""
import statistics, time
import numpy as np
from mpi4py import MPI
comm, buffer = MPI.COMM_WORLD, np.zeros({ALLREDUCE_COUNT}, "f")
times = []
for _ in range({ALLREDUCE_TIMES}):
    began = time.perf_counter()
    comm.Allreduce(MPI.IN_PLACE, buffer)
    times.append(time.perf_counter() - began)
if comm.rank == 0:
    print("median", statistics.median(times) * 1e6)
"""


def rows() -> list[Row]:
    """All rows of the section on ranks in README."""
    nursery = shared_nursery()
    assert nursery is not None
    assert nursery.wait_until_ready()
    return [start_row(), *warm_rows(), allreduce_row()]


def start_row() -> Row:
    """From nothing to an answer that needs torch, of four ranks."""
    ours, other = interleave(start_ours, start_ipyparallel)
    return Row(
        name=f"{WORKERS} ranks ready with torch",
        ours=ours,
        other=other,
        unit="s",
        ratio=ours / other,
        reach="ours <= 1 s and ratio <= 0.2",
        holds=ours <= 1 and ours / other <= 0.2,
        note="nursery warm; ipyparallel: Cluster(engines='mpi') and its first import of torch",
    )


def start_ours() -> float:
    began = time.perf_counter()
    with RankPool(WORKERS) as pool:
        pool.run(use_torch)
        return time.perf_counter() - began


def start_ipyparallel() -> float:
    import ipyparallel

    # It looks for mpiexec on the path alone.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    began = time.perf_counter()
    with ipyparallel.Cluster(engines="mpi", n=WORKERS, log_level=40) as engines:
        engines[:].apply_sync(lambda: __import__("torch").ones(3).sum().item())
        return time.perf_counter() - began


def warm_rows() -> list[Row]:
    """What a pool of four costs once it is there."""
    with RankPool(WORKERS) as pool:
        pool.run(use_torch)
        first = [first_event(pool) for _ in range(21)]
        trips = [seconds_of(lambda: pool.run(nothing)) for _ in range(101)]
        ranks = [psutil.Process(row["pid"]) for row in pool.status()]
        private = statistics.median(process.memory_full_info().uss for process in ranks) / 2**20
        before = cpu_seconds(ranks)
        time.sleep(10)
        idle = cpu_seconds(ranks) - before
    alone = uss_of_a_rank_by_itself()
    return [
        figure("warm cell to first event", statistics.median(first) * 1e3, 15, "ms", "median of 21"),
        figure("control round trip, 4 ranks", statistics.median(trips) * 1e3, 2, "ms", "median of 101"),
        Row(
            name="private memory per further rank",
            ours=private,
            other=alone,
            unit="MiB",
            ratio=private / alone,
            reach="ours <= 25 MiB",
            holds=private <= 25,
            note="unique set size after one operation of torch; other: a process that imports torch by itself",
        ),
        figure("idle pool of 4 for 10 s", idle, 0.05, "CPU-s", "user and system time of the ranks"),
    ]


def figure(name: str, ours: float, bar: float, unit: str, note: str) -> Row:
    """A row that is held against a bar instead of a peer."""
    return Row(name, ours, bar, unit, ours / bar, f"ours <= {bar:g} {unit}", ours <= bar, f"{note}; other is the bar")


def first_event(pool: RankPool) -> float:
    """Seconds from handing in a job to its first event from a rank."""
    seen: list[float] = []
    run: Run[list[None]] = Run("benchmark", {})
    run.log.listen(lambda event: seen.append(time.perf_counter()) if event.rank is not None else None)
    began = time.perf_counter()
    pool.submit(run, report_once, {}, workers=WORKERS, finish=lambda run, values, stopped: run.finish(values))
    run.wait()
    return seen[0] - began


def seconds_of(action) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def uss_of_a_rank_by_itself() -> float:
    """MiB of a process that imports what a rank needs and runs one operation."""
    source = """
import psutil, torch
from mpi4py import MPI
torch.ones(3).sum()
print(psutil.Process().memory_full_info().uss)
"""
    return int(subprocess.run([sys.executable, "-c", source], capture_output=True, check=True).stdout) / 2**20


def allreduce_row() -> Row:
    """The same Allreduce inside a task and in a program of its own: 100 kB on two ranks."""
    with RankPool(ALLREDUCE_RANKS) as pool:
        pool.run(nothing)
        pairs = [(pool.run(allreduce)[0], bare_allreduce()) for _ in range(REPEATS)]
    ours, other = (statistics.median(side) for side in zip(*pairs, strict=True))
    return Row(
        name="Allreduce inside a task, beside a bare mpiexec program",
        ours=ours,
        other=other,
        unit="us",
        ratio=ours / other,
        reach="<= 1.05",
        holds=ours / other <= 1.05,
        note=f"{ALLREDUCE_COUNT * 4 // 1000} kB, {ALLREDUCE_RANKS} ranks, median of {ALLREDUCE_TIMES}, {REPEATS} times",
    )


def bare_allreduce() -> float:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "bare.py"
        program.write_text(BARE)
        command = [str(find_mpiexec()), "-n", str(ALLREDUCE_RANKS), sys.executable, str(program)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(re.search(r"median ([\d.]+)", said)[1])
