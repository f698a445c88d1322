"""Many ranks on one machine: what 8 to 64 of them, asleep, cost the kernel, and what 1,000 stand-ins would.

Each number of ranks has a kernel of its own (many_kernel.py); beside a start stands that of a bare program under the
same mpiexec, which imports MPI and ends. `docs/scale.md` says what follows from the figures.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from cooptim_lab.hardware import find_mpiexec
from tests.benchmarks.ranks import figure, seconds_of
from tests.benchmarks.rows import Row
from tests.support import rank_processes

SIZES, MOST, STAND_INS = (8, 16, 32), 64, 1000
STARTS = 3
BARE = "from mpi4py import MPI"
SHARED = Path("/dev/shm")
GONE_SECONDS = 2.0

Figures = dict[str, float]


def rows() -> list[Row]:
    """Of every number of ranks, the most of all in full."""
    os.environ.setdefault("COOPTIM_HOME", str(Path.home() / ".many"))  # by it our processes are known
    files, processes = set(SHARED.iterdir()), rank_processes()
    found = []
    for ranks in (*SIZES, MOST):
        of = figures(ranks)
        found += [ready(ranks, of), trip(ranks, of)]
    found += [*in_full(of), *stand_ins(figures(STAND_INS, "voices"))]
    time.sleep(GONE_SECONDS)
    left = len(set(SHARED.iterdir()) - files) + len(rank_processes() - processes)
    return [*found, Row("left afterwards", left, 0, "", 0.0, "nothing", left == 0, "processes, files in /dev/shm")]


def figures(ranks: int, *more: str) -> Figures:
    """What the kernel of so many ranks says."""
    command = [sys.executable, "-m", "tests.benchmarks.many_kernel", str(ranks), *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    print(f"    {ranks} ranks {' '.join(more)}: {done.stdout.strip()}", flush=True)
    return json.loads(done.stdout)


def start_bare(ranks: int) -> float:
    command = [str(find_mpiexec()), "-n", str(ranks), sys.executable, "-c", BARE]
    return seconds_of(lambda: subprocess.run(command, check=True))


def ready(ranks: int, of: Figures) -> Row:
    bare = statistics.median(start_bare(ranks) for _ in range(STARTS))
    return Row(
        name=f"{ranks} ranks ready with torch",
        ours=of["ready"],
        other=bare,
        unit="s",
        ratio=of["ready"] / bare,
        reach="ours <= 10 s",
        holds=of["ready"] <= 10,
        note=f"median of {STARTS}, at worst {of['ready_worst']:.1f}; other: mpiexec and `{BARE}`, to its end",
    )


def trip(ranks: int, of: Figures) -> Row:
    note = (
        f"a job that does nothing; 95th percentile {of['trip_95']:.1f} ms, CPU time of the kernel {of['trip_cpu']:.1f}"
    )
    return figure(f"control round trip, {ranks} ranks", of["trip"], 30, "ms", note)


def in_full(of: Figures) -> list[Row]:
    """What else the most of the ranks cost."""
    beside = f"{of['steady_rate']:.0f} events a second, {of['steady_cpu']:.2f} of a CPU"
    return [
        figure("the kernel's memory", of["after_private"], 60, "MiB", f"private; at rest {of['private']:.1f} more"),
        figure("the kernel's descriptors", of["descriptors"], 4 * MOST + 16, "", "connections, and a handle each"),
        figure("the kernel's threads", of["threads"], 4, "", "whatever the number of ranks"),
        figure("private memory of a rank", of["rank_private"], 25, "MiB", f"in all {of['ranks_total']:.0f} (PSS)"),
        figure("idle for 5 s", of["idle_ranks"] + of["idle_kernel"], 0.1, "CPU-s", "all ranks and the kernel"),
        figure("how all ranks are", of["asked"], 500, "ms", f"a question, no job; {of['asked_known']:.0f} answered"),
        figure("events come late by", of["steady_late_95"], 50, "ms", f"95th percentile; {beside}"),
        figure("an event costs the kernel", of["event_cpu"], 200, "us", f"{of['burst_rate']:.0f} a second were taken"),
        figure("an event on disk", of["event_bytes"], 150, "B", "one point of a curve"),
        figure("a stop", of["stop"], 1, "s", "of ranks that look every 50 ms"),
        figure("a killed rank is told of", of["lost"], 2, "s", "until the run has ended"),
        figure("all answer again", of["whole"], 12, "s", "since the rank was killed"),
        figure("all have left", of["leave"], 2, "s", "when the pool stops"),
    ]


def stand_ins(of: Figures) -> list[Row]:
    """The kernel's side of many more."""
    who = f"{STAND_INS} stand-ins"
    beside = f"{of['steady_rate']:.0f} events a second, {of['steady_cpu']:.2f} of a CPU"
    return [
        figure(f"{who} ready", of["ready"], 30, "s", "connected and proved, three times each"),
        figure(f"{who}: control round trip", of["trip"], 500, "ms", f"CPU time of the kernel {of['trip_cpu']:.0f} ms"),
        figure(f"{who}: the kernel's memory", of["after_private"], 200, "MiB", "private"),
        figure(f"{who}: the kernel's descriptors", of["descriptors"], 3100, "", "no handles: they are elsewhere"),
        figure(f"{who}: events come late by", of["steady_late_95"], 1000, "ms", f"95th percentile; {beside}"),
        figure(f"{who}: an event costs the kernel", of["event_cpu"], 200, "us", f"{of['burst_rate']:.0f} a second"),
        figure(f"{who}: all have left", of["leave"], 5, "s", "when the pool stops"),
    ]
