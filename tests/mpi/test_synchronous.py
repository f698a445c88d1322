"""Identity: M ranks, synchronous, are one process: the aggregations, and whole trainings of tasks of many kinds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import run_ranks

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_are_one_process(ranks):
    run_ranks(Path(__file__).with_name("prog_synchronous.py"), ranks)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_trainings_of_every_kind_are_one_process(ranks):
    run_ranks(Path(__file__).with_name("prog_one_process.py"), ranks)
