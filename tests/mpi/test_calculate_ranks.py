"""A vector computed in parts on MPI ranks: the parts of `np.array_split`, in order, each on a process of its own."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from cooptim_lab import RankFailure, distributed_calculate
from tests.support import refused

pytestmark = pytest.mark.mpi


@pytest.mark.parametrize("length", [0, 1, 3, 10, 1001])
def test_partial_results_in_order(pool, length):
    x = np.random.default_rng(length).normal(size=length)
    expected = [np.sum(part) for part in np.array_split(x, min(2, max(1, length)))]
    assert distributed_calculate(x, workers=2, pool=pool) == expected


def test_one_worker_computes_the_whole(pool):
    assert distributed_calculate([3, 4], workers=1, fn=lambda v: v.tolist(), pool=pool) == [[3, 4]]


def test_a_shorter_vector_takes_a_rank_per_row(pool):
    assert distributed_calculate([7], workers=2, fn=lambda v: v.tolist(), pool=pool) == [[7]]


def test_rows_of_two_dimensions(pool):
    x = np.arange(15).reshape(5, 3)
    shapes = distributed_calculate(x, workers=2, fn=lambda v: v.shape, pool=pool)
    assert shapes == [(3, 3), (2, 3)]


def test_every_part_on_a_process_of_its_own(pool):
    pids = distributed_calculate(np.arange(8), workers=2, fn=lambda v: os.getpid(), pool=pool)
    assert pids == [row["pid"] for row in pool.status()][:2]
    assert len({*pids, os.getpid()}) == 3


def test_what_a_function_closes_over_travels(pool):
    factor = np.float64(2.5)
    assert distributed_calculate([1, 2], workers=2, fn=lambda v: float(v[0] * factor), pool=pool) == [2.5, 5.0]


def test_a_failure_names_the_rank(pool):
    def fail_on_the_second(part):
        if part[0] == 2:
            raise ArithmeticError("not this one")
        return 0

    with pytest.raises(RankFailure, match=r"^rank 1 on .*ArithmeticError: not this one$") as caught:
        distributed_calculate([1, 2], workers=2, fn=fail_on_the_second, pool=pool)
    assert caught.value.rank == 1
    assert "in fail_on_the_second" in caught.value.remote_traceback
    assert distributed_calculate([1, 2], workers=2, pool=pool) == [1, 2], "the ranks did not survive it"


@pytest.mark.parametrize("workers", [0, -2, 1.5, True])
def test_bad_workers(pool, workers):
    with refused(f"workers = {workers!r}", "whole number, 1 or more"):
        distributed_calculate([1, 2, 3], workers=workers, pool=pool)


def test_a_function_that_cannot_travel(pool):
    lock = threading.Lock()
    with refused("cannot be sent to the ranks", "lock"):
        distributed_calculate([1, 2], workers=2, fn=lambda v: lock.locked(), pool=pool)
