"""Nothing outlives its owner: not when the kernel is killed, not when the guard is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from cooptim_lab import RankPool
from tests.support import PATIENCE_SECONDS, rank_processes, run_python, wait_until

pytestmark = pytest.mark.mpi

OWNER = """
import sys, threading, time
from cooptim_lab import RankPool

def spin(context):
    print("ready", flush=True)
    while True:
        context.comm.Barrier()

def idle(context):
    pass

pool = RankPool(2)
pool.run(idle)
if sys.argv[1] == "busy":
    threading.Thread(target=pool.run, args=[spin], daemon=True).start()
    while not all(row["state"] == "busy" for row in pool.status()):
        time.sleep(0.01)
print("ready", flush=True)
time.sleep(3600)
"""


@pytest.mark.parametrize("what", ["idle", "busy"])
def test_when_the_owner_is_killed_nothing_is_left(nothing_left, what):
    with subprocess.Popen([sys.executable, "-c", OWNER, what], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "ready\n"
        assert len(nothing_left()) >= 5  # guard, mpiexec, nursery, two ranks
        owner.send_signal(signal.SIGKILL)


def test_when_the_owner_ends_without_a_word_nothing_is_left_and_nothing_is_said():
    before = rank_processes()
    done = run_python(
        "from cooptim_lab import RankPool\npool = RankPool(2)\nprint(pool.run(lambda context: context.size))"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[2, 2]\n", "")
    assert rank_processes() <= before


def test_when_the_guard_is_killed_nothing_is_left_and_the_next_job_works(nothing_left):
    with RankPool(2) as pool:
        pids = pool.run(lambda context: os.getpid())
        started = nothing_left()
        guard = next(each for each in map(psutil.Process, started) if "cooptim_lab.ranks.guard" in each.cmdline())
        guard.send_signal(signal.SIGKILL)
        assert wait_until(lambda: started.isdisjoint(rank_processes()), PATIENCE_SECONDS)
        assert wait_until(lambda: pool.status() == [])
        assert set(pool.run(lambda context: os.getpid())).isdisjoint(pids)
        nothing_left()


def test_when_the_launcher_is_killed_nothing_is_left_and_the_next_job_works(nothing_left):
    with RankPool(2) as pool:
        pids = pool.run(lambda context: os.getpid())
        started = nothing_left()
        launcher = next(each for each in map(psutil.Process, started) if "mpiexec" in each.name())
        launcher.send_signal(signal.SIGKILL)
        assert wait_until(lambda: started.isdisjoint(rank_processes()), PATIENCE_SECONDS)
        assert wait_until(lambda: pool.status() == [], PATIENCE_SECONDS)  # that they are gone may be heard later
        assert set(pool.run(lambda context: os.getpid())).isdisjoint(pids)
        nothing_left()
