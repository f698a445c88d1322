"""Identity: M ranks, synchronous, are one process: the aggregations, and whole trainings of tasks of many kinds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import random_networks
from tests.support import run_ranks

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_are_one_process(ranks):
    run_ranks(Path(__file__).with_name("prog_synchronous.py"), ranks)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.timeout(200)
def test_trainings_of_every_kind_are_one_process(ranks):
    run_ranks(Path(__file__).with_name("prog_one_process.py"), ranks, seconds=180)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_networks_drawn_at_random_are_one_process_or_refused(ranks):
    """Some of `make networks`; 1111 branches on its data, and has batches of fewer rows than 4 ranks."""
    run_ranks(Path(random_networks.__file__), ranks, 4, 1109)


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.timeout(200)
def test_what_meets_over_ranks(ranks):
    """BatchNorm in a checkpoint; parts of a batch that make another; what no row reaches; divisors of rare rows."""
    programs = ("prog_checkpoint.py", "prog_apart.py", "prog_untouched.py", "prog_parts.py")
    here = Path(__file__)
    run_ranks(here.with_name("prog_several.py"), ranks, *map(here.with_name, programs), seconds=180)
