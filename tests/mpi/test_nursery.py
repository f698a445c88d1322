"""Ranks that are forked from a process which has imported torch, and what must be the same as without."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket

import numpy as np
import psutil
import pytest

from cooptim_lab import RankPool
from cooptim_lab.ranks import forking, starting
from cooptim_lab.ranks.forking import SWITCH, Nursery, shared_nursery
from cooptim_lab.ranks.nursery import socket_path
from tests.support import wait_until

pytestmark = pytest.mark.mpi


@pytest.fixture
def nursery():
    nursery = shared_nursery()
    assert nursery is not None
    assert nursery.wait_until_ready(), nursery.said
    return nursery


def test_ranks_are_its_children_and_torch_is_there_already(nursery):
    import sys

    with RankPool(2) as pool:
        seen = pool.run(lambda context: (os.getppid(), "torch" in sys.modules, context.rank))
    assert seen == [(nursery.pid, True, 0), (nursery.pid, True, 1)]


def test_it_has_one_thread_and_forked_ranks_draw_numbers_of_their_own(nursery):
    assert psutil.Process(nursery.pid).num_threads() == 1

    def draw(context):
        import random

        import torch

        return np.random.rand(), float(torch.rand(())), random.random()

    with RankPool(2) as pool:
        one, other = pool.run(draw)
    assert all(mine != its for mine, its in zip(one, other, strict=True))


def test_a_rank_ends_with_its_stub(nursery, nothing_left):
    with RankPool(2) as pool:
        pids = pool.run(lambda context: os.getpid())
        started = nothing_left()
        stubs = [pid for pid in started if "stub.py" in " ".join(psutil.Process(pid).cmdline())]
        stubs = [pid for pid in stubs if "mpiexec" not in psutil.Process(pid).name()]
        for pid in stubs:
            with contextlib.suppress(ProcessLookupError):  # the launcher may end the second once the first is gone
                os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids))


@pytest.mark.parametrize("said", [b"", (100).to_bytes(8, "big"), (100).to_bytes(8, "big") + b'{"dir'])
def test_a_stub_that_dies_while_it_asks_is_forgotten(nursery, said):
    """As in a start that is stopped: the next ranks come from the same nursery, and it has nothing of that stub."""
    process = psutil.Process(nursery.pid)
    before = process.num_fds()
    read, write = os.pipe()
    with socket.socket(socket.AF_UNIX) as stub:
        stub.connect(str(socket_path(nursery.directory)))
        if said:
            socket.send_fds(stub, [said[:8]], [write])
            stub.sendall(said[8:])
    os.close(write)
    assert select.select([read], [], [], 5.0)[0], "its descriptors are open still"
    os.close(read)
    with RankPool(2) as pool:
        assert pool.run(lambda context: os.getppid()) == [nursery.pid] * 2
    assert wait_until(lambda: process.num_fds() == before)


def test_when_it_is_killed_the_next_ranks_come_from_another(nursery):
    with RankPool(2) as pool:
        pool.start()
        os.kill(nursery.pid, signal.SIGKILL)
        assert wait_until(lambda: pool.status() == [])
        assert pool.run(lambda context: context.comm.allgather(context.rank)) == [[0, 1]] * 2
    assert forking.current_nursery() is not nursery


def test_without_it_ranks_start_as_processes_of_their_own(monkeypatch, nothing_left):
    monkeypatch.setenv(SWITCH, "off")
    with RankPool(2) as pool:
        parents = pool.run(lambda context: psutil.Process(os.getppid()).name())
        nothing_left()
    assert all("hydra" in name or "mpiexec" in name for name in parents)


def test_one_that_cannot_be_made_says_why_and_is_done_without(monkeypatch, tmp_path):
    startup = tmp_path / "broken.py"  # an installation in which an import fails
    startup.write_text(
        "import runpy, sys\nsys.modules['sklearn.datasets'] = None\ndel sys.argv[0]\n"
        "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
    )
    monkeypatch.setattr(starting, "SCRIPT", startup)
    broken = Nursery()
    try:
        assert not broken.wait_until_ready()
        assert any("threads" in line or "sklearn.datasets" in line for line in broken.said)
    finally:
        broken.close()
    assert not broken.directory.exists()


def test_what_was_known_of_ends_does_not_change_under_who_reads_it(nursery):
    """A start looks through it while the thread that listens hears of other ranks' ends."""
    before = nursery.ended
    known = dict(before)
    with RankPool(2) as pool:
        pids = {row["pid"] for row in pool.start() or pool.status()}
    assert wait_until(lambda: pids <= nursery.ended.keys())
    assert before == known
