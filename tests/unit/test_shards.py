"""Rows dealt over ranks: nothing twice, nothing lost, and weights that add up to one."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch

from cooptim_lab.shards.deal import DEALS, deal, shard_batches
from cooptim_lab.training.cutting import shard
from tests.support import refused

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = [(1, 1), (2, 2), (7, 3), (10, 3), (64, 4), (101, 8), (1437, 4), (1438, 7)]


@pytest.mark.parametrize(("rows", "shards"), SIZES)
def test_shards_partition_the_rows(rows, shards):
    parts = [shard(rows, shards, which) for which in range(shards)]
    assert [row for part in parts for row in part] == list(range(rows))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize(("rows", "shards"), [(3, 4), (1, 2)])
def test_more_shards_than_rows_are_refused(rows, shards):
    with refused(f"workers = {shards}", f"{rows} rows", f"at most {rows}"):
        shard(rows, shards, 0)


# Deals.

ROWS = torch.arange(5, 2005, 2, dtype=torch.int32)  # as where others are held out
LABELS = np.random.default_rng(0).choice([0, 1, 2, 7], size=2005, p=[0.6, 0.3, 0.08, 0.02])


def deals(shards, how="order", seed=0, skew=0.0, rows=ROWS, labels=LABELS):
    return [deal(rows, shards, which, how, seed, labels, skew) for which in range(shards)]


def counts(deals):
    """(shards, classes)"""
    return np.array([[(LABELS[each.rows.numpy()] == label).sum() for label in (0, 1, 2, 7)] for each in deals])


def unevenness(deals):
    """How far the shards' mixes of classes lie from that of all rows: the mean total variation distance, 0 to 1."""
    table = counts(deals)
    return 0.5 * np.abs(table / table.sum(1, keepdims=True) - table.sum(0) / table.sum()).sum(1).mean()


@pytest.mark.parametrize("shards", [1, 2, 3, 7])
@pytest.mark.parametrize(("how", "skew"), [*((how, 0.0) for how in DEALS), ("order", 100.0), ("stratify", 1.5)])
@pytest.mark.parametrize("rows", [7, 101, 1000])
def test_a_deal_partitions_the_rows(rows, shards, how, skew):
    rows = ROWS[: 101 if skew and rows == 7 else rows]  # fewer would leave a shard empty
    parts = deals(shards, how, 3, skew, rows)
    assert torch.equal(torch.cat([part.rows for part in parts]).sort().values, rows)
    for part in parts:
        assert part.rows.dtype == torch.int32
        assert torch.equal(part.rows, part.rows.sort().values)
        assert part.sizes == tuple(len(each.rows) for each in parts)
    if not skew:
        assert parts[0].sizes == tuple(len(shard(len(rows), shards, which)) for which in range(shards))


def test_order_is_consecutive_and_keeps_no_more_than_its_own():
    parts = deals(3)
    assert torch.equal(torch.cat([part.rows for part in parts]), ROWS)
    assert parts[1].rows.untyped_storage().nbytes() == 4 * len(parts[1].rows)


def test_shuffle_mixes_the_rows():
    for part in deals(4, "shuffle"):
        assert abs(float(part.rows.double().mean()) - 1004) < 100  # the mean of all; consecutive quarters are 250 off


@pytest.mark.parametrize("shards", [2, 3, 7, 64])
def test_stratify_gives_every_shard_the_same_classes(shards):
    table = counts(deals(shards, "stratify"))
    assert (table.max(0) - table.min(0)).max() <= 1
    assert counts(deals(shards, "shuffle")).std(0).max() > 1  # which chance does not


def test_a_smaller_skew_is_more_uneven():
    measured = [
        np.mean([unevenness(deals(4, skew=skew, seed=seed)) for seed in range(5)]) for skew in (0.2, 1, 10, 1000)
    ]
    assert all(a > 1.5 * b for a, b in itertools.pairwise(measured)), measured
    assert measured[-1] < 0.05
    sizes = deal(ROWS, 4, 0, "order", 0, LABELS, 0.5).sizes
    assert max(sizes) > min(sizes) + 100


@pytest.mark.parametrize(("how", "skew"), [("shuffle", 0.0), ("stratify", 0.0), ("order", 0.5)])
def test_a_deal_is_decided_by_its_seed(how, skew):
    first, again, other = (deal(ROWS, 2, 0, how, seed, LABELS, skew).rows for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("how", "skew"), [*((how, 0.0) for how in DEALS), ("order", 1.0)])
def test_a_deal_over_more_shards_than_rows_is_refused(how, skew):
    with refused("workers = 5", "4 rows", "at most 4"):
        deal(ROWS[:4], 5, 0, how, 0, LABELS, skew)


@pytest.mark.parametrize(("how", "skew", "said"), [("stratify", 0.0, "stratify"), ("order", 0.5, "skew = 0.5")])
def test_classes_cannot_be_dealt_where_there_are_none(how, skew, said):
    with refused(said, "whole number", "leave it out"):
        deal(ROWS, 2, 0, how, 0, None, skew)


def test_a_skew_that_leaves_a_shard_empty_is_refused_by_all_alike():
    for which in range(4):
        with refused("skew = 0.001 leaves shard ", " of 4 without rows", "larger skew, fewer workers or another seed"):
            deal(ROWS, 4, which, "order", 0, LABELS, 0.001)


# Epochs.

EVEN = [tuple(len(shard(rows, shards, which)) for which in range(shards)) for rows, shards in SIZES]
UNEVEN = [(1, 2), (5, 1, 1), (3, 40, 40, 17), (1, 999), (64, 64, 64, 60), (10, 30, 20)]


@pytest.mark.parametrize("batch", [1, 2, 3, 10, 64, 5000])
@pytest.mark.parametrize("sizes", [*EVEN, *UNEVEN], ids=str)
class TestEpoch:
    def parts(self, sizes, batch, epoch=3):
        """By shard, then by step."""
        return [shard_batches(sizes, which, batch, 0, epoch) for which in range(len(sizes))]

    def test_every_row_is_used_once(self, sizes, batch):
        for size, steps in zip(sizes, self.parts(sizes, batch), strict=True):
            assert sorted(torch.cat([step.rows for step in steps]).tolist()) == list(range(size))

    def test_the_steps_are_those_that_one_process_would_take(self, sizes, batch):
        steps = [sum(len(part.rows) for part in step) for step in zip(*self.parts(sizes, batch), strict=True)]
        assert steps == [len(rows) for rows in torch.arange(sum(sizes)).split(batch)]

    def test_weights_are_shares_of_the_step_and_add_up_to_one(self, sizes, batch):
        for step in zip(*self.parts(sizes, batch), strict=True):
            total = sum(len(part.rows) for part in step)
            assert [part.weight for part in step] == [len(part.rows) / total for part in step]
            assert abs(sum(part.weight for part in step) - 1) < 1e-12


@pytest.mark.parametrize("sizes", EVEN, ids=str)
def test_the_parts_of_shards_of_one_size_differ_by_one_at_most(sizes):
    for step in zip(*[shard_batches(sizes, which, 10, 0, 0) for which in range(len(sizes))], strict=True):
        parts = [len(part.rows) for part in step]
        assert max(parts) - min(parts) <= 1


@pytest.mark.parametrize("sizes", UNEVEN, ids=str)
def test_shards_of_unlike_sizes_are_interleaved_in_proportion(sizes):
    """Against sorting the times of all rows, as fractions; ties go to the lower shard."""
    turns = sorted((Fraction(2 * j + 1, 2 * size), which) for which, size in enumerate(sizes) for j in range(size))
    for which, size in enumerate(sizes):
        places = [len(part.rows) for part in shard_batches(sizes, which, 1, 0, 0)]
        assert places == [int(turn[1] == which) for turn in turns]
        for batch in (10, 64):
            for part in shard_batches(sizes, which, batch, 0, 0)[:-1]:
                assert abs(len(part.rows) - batch * size / sum(sizes)) < len(sizes)


def test_the_order_depends_on_seed_epoch_and_shard():
    def order(which, seed, epoch):
        return torch.cat([part.rows for part in shard_batches([32, 32], which, 16, seed, epoch)]).tolist()

    assert order(0, 0, 0) == order(0, 0, 0)
    assert len({tuple(order(*each)) for each in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}) == 4


@pytest.mark.parametrize("seed", [20261123, 2**31, 2**62, 2**63 - 1])
def test_any_seed_will_do(seed):
    assert len(shard_batches([32, 32], 1, 16, seed, 100)) == 4
