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
def test_trainings_of_every_kind_are_one_process(ranks):
    run_ranks(Path(__file__).with_name("prog_one_process.py"), ranks)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_batchnorm_in_a_checkpoint_is_that_of_one_process(ranks):
    run_ranks(Path(__file__).with_name("prog_checkpoint.py"), ranks)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_networks_drawn_at_random_are_one_process_or_refused(ranks):
    """Some of `make networks`; 1111 branches on its data, and has batches of fewer rows than 4 ranks."""
    run_ranks(Path(random_networks.__file__), ranks, 4, 1109)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_what_parts_of_a_batch_make_another_is_said(ranks):
    run_ranks(Path(__file__).with_name("prog_apart.py"), ranks)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_what_no_row_of_a_batch_reaches_is_left_as_it_is(ranks):
    run_ranks(Path(__file__).with_name("prog_untouched.py"), ranks)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_divisor_that_rare_rows_show_is_seen(ranks):
    run_ranks(Path(__file__).with_name("prog_parts.py"), ranks)
