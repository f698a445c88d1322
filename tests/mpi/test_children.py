"""What a rank's program has started ends with the rank, however that comes to its end; and not before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import psutil
import pytest

from cooptim_lab import RankFailure, RankPool
from cooptim_lab.ranks.forking import SWITCH, current_nursery
from tests.support import GONE_SECONDS, PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.mpi

NOTICED_SECONDS = 2.0


def start_children(context):
    """Some of each kind, kept by a name; returns the process ids of all, and the rank's own last."""
    import builtins
    import ctypes
    import multiprocessing

    builtins.kept = kept = [multiprocessing.get_context("fork").Pool(2)]
    kept[0].map(abs, [1, 2])
    kept.append(subprocess.Popen(["sleep", "600"]))
    kept.append(subprocess.Popen(["sleep", "600"], start_new_session=True))
    kept.append(subprocess.Popen("trap '' TERM; sleep 600; sleep 600", shell=True, start_new_session=True))
    subprocess.run("sleep 600 >/dev/null 2>&1 &", shell=True, check=True)  # whose parent ends at once
    if ctypes.CDLL(None).fork() == 0:  # Python does not know of it: it holds all connections open
        while True:
            time.sleep(1)
    return [*(child.pid for child in psutil.Process().children(recursive=True)), os.getpid()]


def are_gone(pids, seconds=GONE_SECONDS):
    """Whether all these processes ended in time; those that did not are ended."""
    if wait_until(lambda: not any(map(psutil.pid_exists, pids)), seconds):
        return True
    for pid in filter(psutil.pid_exists, pids):
        os.kill(pid, signal.SIGKILL)
    return False


@pytest.fixture(params=["forked", "by themselves"])
def fresh(request, monkeypatch):
    """Two ranks, from the nursery or each as a process of its own."""
    if request.param == "by themselves":
        monkeypatch.setenv(SWITCH, "off")
    with RankPool(2) as pool:
        yield pool


def test_they_live_as_long_as_their_rank_and_end_with_it_when_it_leaves(fresh, nothing_left):
    pids = [*chain(*fresh.run(start_children))]
    fresh.run(lambda context: None)
    nothing_left()
    assert len(pids) >= 16
    assert all(map(psutil.pid_exists, pids))
    fresh.stop()
    assert are_gone(pids)


def test_they_end_with_a_rank_that_is_killed_and_do_not_hide_its_end(fresh, submit, nothing_left):
    pids = [*chain(*fresh.run(start_children))]
    nothing_left()
    run = submit(fresh, lambda context: time.sleep(600), is_cooperative=False)
    assert wait_until(lambda: all(row["state"] == "busy" for row in fresh.status()))
    killed = time.monotonic()
    os.kill(next(row["pid"] for row in fresh.status() if row["rank"] == 1), signal.SIGKILL)
    with pytest.raises(RankFailure) as caught:
        run.wait(PATIENCE_SECONDS)
    assert time.monotonic() - killed < NOTICED_SECONDS + GONE_SECONDS  # it waits for the others' end as well
    assert caught.value.rank == 1
    assert are_gone(pids)


@pytest.mark.parametrize("who", ["pid", "guard"])
def test_they_end_when_the_nursery_or_its_guard_is_killed(nothing_left, who):
    with RankPool(2) as pool:
        pids = [*chain(*pool.run(start_children))]
        nothing_left()
        os.kill(getattr(current_nursery(), who), signal.SIGKILL)
        assert are_gone(pids)
        assert pool.run(lambda context: context.rank) == [0, 1]


def test_they_end_when_the_kernel_is_killed(nothing_left):
    source = (
        "import time\nfrom cooptim_lab import RankPool\nfrom tests.mpi.test_children import start_children\n"
        "pool = RankPool(2)\nprint(*sum(pool.run(start_children), []), flush=True)\ntime.sleep(3600)"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True, cwd=root) as owner:
        pids = [int(word) for word in owner.stdout.readline().split()]
        nothing_left()
        assert len(pids) >= 16
        owner.send_signal(signal.SIGKILL)
    assert are_gone(pids)


def test_shared_memory_of_a_program_goes_with_its_rank():
    """Python's own tidying process, which is one of the children, is left the time for it."""

    def share(context):
        import builtins
        from multiprocessing import shared_memory

        builtins.kept = shared_memory.SharedMemory(create=True, size=4096)
        return builtins.kept.name

    with RankPool(2) as pool:
        names = pool.run(share)
        os.kill(pool.status()[0]["pid"], signal.SIGKILL)
        left = [Path("/dev/shm", name) for name in names]
        assert wait_until(lambda: not any(map(Path.exists, left)), GONE_SECONDS)


SPAWNED = """
import os, sys, time
from pathlib import Path
from mpi4py import MPI
lines = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
place = Path(sys.argv[1], str(os.getpid()))
place.with_suffix(".new").write_text("\\n".join(line for line in lines if "/mpich_shm" in line))
place.with_suffix(".new").rename(place)
time.sleep(600)
"""


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_ranks_that_ranks_have_spawned_end_with_them_and_leave_no_shared_memory(tmp_path, nothing_left, end):
    script, told = tmp_path / "spawned.py", tmp_path / "told"
    script.write_text(SPAWNED)
    told.mkdir()

    def spawn(context):
        from mpi4py import MPI

        MPI.COMM_SELF.Spawn(sys.executable, [str(script), str(told)])

    with RankPool(2) as pool:
        pool.run(spawn)
        nothing_left()
        assert wait_until(lambda: len([path for path in told.iterdir() if not path.suffix]) == 2)
        time.sleep(0.2)
        files = {Path(line) for path in told.iterdir() for line in path.read_text().splitlines()}
        assert len(files) == 2
        assert all(map(Path.exists, files))
        if end == "stop":
            pool.stop()
        else:
            os.kill(pool.status()[0]["pid"], signal.SIGKILL)
        assert are_gone([int(path.name) for path in told.iterdir()])
        assert wait_until(lambda: not any(map(Path.exists, files)), GONE_SECONDS)
