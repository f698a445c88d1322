"""Ranks under Slurm, by a command that stands in for its `srun` (tests/srun.py): no mpiexec has a part in it."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from cooptim_lab import RankFailure, RankPool

pytestmark = pytest.mark.mpi


def killed(context):
    if context.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def test_a_stand_in_for_srun_starts_ranks_without_any_mpiexec(nothing_left, tmp_path, monkeypatch):
    """Started, told where the notebook is, and ended by what Slurm's own command would be; see tests/srun.py."""
    srun = tmp_path / "srun"
    srun.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).parents[1] / "srun.py"} "$@"\n')
    srun.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with RankPool(2, launcher="srun --mpi=pmi2 -n {workers}") as pool:
        assert pool.run(lambda context: context.comm.allreduce(context.rank + 1)) == [3, 3]
        assert pool.run(lambda context: os.environ["SLURM_PROCID"]) == ["0", "1"]
        nothing_left()
        with pytest.raises(RankFailure, match="rank 1 "):
            pool.run(killed)
        assert pool.run(lambda context: context.size) == [2, 2]
