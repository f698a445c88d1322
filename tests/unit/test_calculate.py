"""A vector computed in parts: equal to the whole, for every length and number of parts, and truly at the same time."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from cooptim_lab import InputError, parallel_calculate
from tests.support import refused

LENGTHS = (0, 1, 3, 10, 1001)
PARTS = (1, 2, 3, 4, 5, 6, 7)


def vector(length: int) -> np.ndarray:
    return np.random.default_rng(length).normal(size=length)


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("length", LENGTHS)
class TestEveryLength:
    @pytest.mark.parametrize("fn", [np.sum, np.prod, np.any, np.all, np.count_nonzero], ids=lambda fn: fn.__name__)
    def test_of_any_vector(self, length, parts, fn):
        x = vector(length)
        assert parallel_calculate(x, parts, fn) == pytest.approx(fn(x), rel=1e-12, abs=1e-12)

    @pytest.mark.parametrize(
        "fn", [np.max, np.min, np.mean, max, min], ids=["np.max", "np.min", "np.mean", "max", "min"]
    )
    def test_of_those_that_need_a_value(self, length, parts, fn):
        if length:
            x = vector(length)
            assert parallel_calculate(x, parts, fn) == pytest.approx(fn(x), rel=1e-12)

    def test_sum_of_squares(self, length, parts):
        x = vector(length)
        assert parallel_calculate(x, parts, lambda v: float(v @ v)) == pytest.approx(float(x @ x), rel=1e-12)

    def test_parts_differ_by_one_and_keep_their_order(self, length, parts):
        pieces = parallel_calculate(np.arange(length), parts, list, combine=list)
        assert [i for piece in pieces for i in piece] == list(range(length))
        sizes = {len(piece) for piece in pieces}
        assert max(sizes) - min(sizes) <= 1
        assert len(pieces) == max(1, min(parts, length))


@pytest.mark.parametrize(("fn", "x"), [(np.any, [0, 0, 0]), (np.all, [1, 1, 0]), (any, [0, 0, 7]), (all, [1, 1, 1])])
def test_truth(fn, x):
    answer = parallel_calculate(x, 2, fn)
    assert bool(answer) == bool(fn(x))


def test_the_default_is_the_sum_in_four_parts():
    assert parallel_calculate(range(10)) == 45


def test_the_mean_of_unequal_parts_is_weighted():
    x = [0.0, 0.0, 9.0]  # parts of 2 and 1
    assert parallel_calculate(x, 2, np.mean) == 3.0
    assert parallel_calculate(x, 2, np.mean, combine=np.mean) == 4.5  # what the weights are for


def test_whole_numbers_stay_exact():
    x = np.array([2**60, 1, 2**60 + 1, 3])
    assert parallel_calculate(x, 3, np.sum) == int(x.sum())
    assert parallel_calculate(x, 3, np.max) == 2**60 + 1


def test_nested_lists():
    assert parallel_calculate([[1, 2], [3, 4], [5, 6]], 2, np.sum) == 21


@pytest.mark.parametrize("parts", PARTS)
def test_two_dimensions(parts):
    x = np.random.default_rng(3).normal(size=(5, 7))
    assert parallel_calculate(x, parts, np.mean) == pytest.approx(x.mean())
    assert parallel_calculate(x, parts, np.max) == x.max()
    columns = parallel_calculate(x, parts, lambda rows: rows.sum(axis=0))
    np.testing.assert_allclose(columns, x.sum(axis=0), rtol=1e-12)


@pytest.mark.parametrize("fn", [np.median, np.std, np.var, np.sort], ids=lambda fn: fn.__name__)
def test_what_parts_cannot_give(fn):
    with refused(fn.__name__, "combine="):
        parallel_calculate(np.arange(10), 3, fn)


@pytest.mark.parametrize("fn", [np.average, np.nanmean, np.nanmax, np.ptp, np.argmax], ids=lambda fn: fn.__name__)
def test_right_or_refused(fn):
    """No function of NumPy's that is known not to add up gives a wrong number in silence."""
    x = np.array([1.0, 2.0, 9.0])
    try:
        assert parallel_calculate(x, 2, fn) == fn(x)
    except InputError as error:
        assert "combine=" in str(error)


def test_own_combination():
    x = vector(101)
    whole = parallel_calculate(x, 4, np.sort, combine=lambda parts: np.sort(np.concatenate(parts)))
    np.testing.assert_array_equal(whole, np.sort(x))


def test_the_vector_is_left_as_it_was():
    x = vector(10)
    before = x.copy()
    parallel_calculate(x, 3)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("parts", [0, -1, 2.5, True, None, "4"])
def test_bad_parts(parts):
    with refused(f"parts = {parts!r}", "whole number, 1 or more"):
        parallel_calculate([1, 2, 3], parts)


def test_numpy_whole_numbers_are_whole_numbers():
    assert parallel_calculate([1, 2, 3], np.int64(2)) == 6


def test_a_single_value_is_no_vector():
    with refused("single value 7", "give a vector"):
        parallel_calculate(7)


def test_an_error_in_a_part_is_its_own():
    with pytest.raises(ZeroDivisionError):
        parallel_calculate([1, 2, 3], 2, lambda v: 1 // 0)


@pytest.mark.parametrize("parts", [2, 4])
def test_at_the_same_time(parts):
    """Every part waits for all others: one after the other, the barrier would break."""
    meeting = threading.Barrier(parts, timeout=20)

    def meet(part):
        meeting.wait()
        return threading.get_ident()

    threads = parallel_calculate(np.arange(8), parts, meet, combine=set)
    assert len(threads) == parts
    assert threading.get_ident() not in threads
