"""The smallest batch of an epoch: one rule, before the clock, in every way."""

from __future__ import annotations

import tracemalloc

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cooptim_lab.errors import InputError
from cooptim_lab.preparing.examination.sizes import check_smallest, smallest_batch

X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def test_of_any_number_of_rows_it_is_known_at_once():
    """Sizes are looked at one by one, the nearest first: a list of all took 380 MB and 5 s of 8 million rows."""
    tracemalloc.start()
    try:
        found = smallest_batch(10**9 + 1, 2000)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()
    assert found.rows == 1 and found.advice == "give batch = 1999"


@pytest.mark.parametrize(
    ("rows", "batch", "smallest"), [(12, 4, 4), (12, 5, 2), (13, 4, 1), (12, 64, 12), (12, 1, 1), (12, 12, 12)]
)
def test_the_smallest_batch_is_the_last_or_any(rows, batch, smallest):
    assert smallest_batch(rows, batch).rows == smallest
    every = torch.arange(rows).split(batch)
    assert min(map(len, every)) == smallest


def test_the_advice_leaves_no_single_row():
    for rows in range(2, 80):
        for batch in range(1, rows + 2):
            if (found := smallest_batch(rows, batch)).rows == 1:
                advised = int(found.advice.rpartition(" ")[2])
                assert smallest_batch(rows, advised).rows > 1


def test_one_row_is_refused_where_batchnorm_has_to_normalise_it():
    with pytest.raises(
        InputError, match=r"1 row, and the last batch of an epoch \(13 rows in batches of 4\) has 1: give"
    ):
        check_smallest(normalised(), cross_entropy, X, Y, smallest_batch(13, 4))


@pytest.mark.parametrize(
    "network",
    [
        nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)),
        nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)),
    ],
)
def test_one_row_is_kept_where_the_network_can_take_it(network):
    check_smallest(network, cross_entropy, X, Y, smallest_batch(13, 4))


def test_two_rows_are_enough():
    check_smallest(normalised(), cross_entropy, X, Y, smallest_batch(12, 5))


def test_nothing_is_changed_by_it():
    network, before = normalised(), torch.get_rng_state()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    check_smallest(network.eval(), cross_entropy, X, Y, smallest_batch(12, 5))
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before)
    assert not network.training
