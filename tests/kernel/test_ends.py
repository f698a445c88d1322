"""However a kernel ends, nothing of it is left: no process, no shared memory, no private directory."""

from __future__ import annotations

import os
import signal

import pytest

from cooptim_lab.runs import store
from tests.kernel.server import server
from tests.support import GONE_SECONDS, rank_processes, wait_until

pytestmark = pytest.mark.mpi
MOST = 5
"""Guard, mpiexec, nursery and two ranks."""
GO = "%cooptim sharded --epochs 10000000 --bg -o run"


def begin_run(kernel) -> str:
    """A run that goes on; returns its id."""
    id = kernel.run(f"{GO}\nprint(run.id)").text.split()[-1]
    assert kernel.wait_until(kernel.is_training)
    return id


def test_killed(start_kernel, nothing_left):
    with start_kernel() as kernel:
        id = begin_run(kernel)
        assert nothing_left()
        os.kill(kernel.manager.provisioner.pid, signal.SIGKILL)
        kernel.manager.provisioner.process.wait()
    assert store.load(id).state == "lost"


def test_with_the_server_that_was_killed(tmp_path, nothing_left):
    with server(tmp_path) as jupyter:
        jupyter.run(GO)
        assert wait_until(lambda: len(nothing_left()) >= MOST)
        jupyter.process.send_signal(signal.SIGKILL)


def test_restarted_by_the_server(tmp_path, nothing_left):
    with server(tmp_path) as jupyter:
        jupyter.run(GO)
        assert wait_until(lambda: len(nothing_left()) >= MOST)
        first = nothing_left()
        jupyter.restart_kernel()
        assert wait_until(lambda: not rank_processes() & first, GONE_SECONDS)


def test_shut_down_and_restarted(start_kernel, nothing_left):
    with start_kernel() as kernel:
        id = begin_run(kernel)
        first = nothing_left()
        kernel.manager.restart_kernel(now=False)
        assert wait_until(lambda: not rank_processes() & first, GONE_SECONDS)
        kernel.client.wait_for_ready(timeout=60)
        kernel.run("%load_ext cooptim_lab")
        assert kernel.run("%cooptim pool").text.startswith("no ranks are running")
        assert store.load(id).state in ("stopped", "failed", "lost")
        kernel.run("%%cooptim ranks\nrank")
        assert nothing_left() - first
    # leaving the block shuts the kernel down; nothing_left looks
