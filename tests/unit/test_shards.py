"""Rows dealt over ranks: nothing twice, nothing lost, and weights that add up to one."""

from __future__ import annotations

import math

import pytest
import torch

from cooptim_lab.training.shards import shard, shard_batches
from tests.support import refused

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


@pytest.mark.parametrize("batch", [1, 2, 3, 10, 64, 5000])
@pytest.mark.parametrize(("rows", "shards"), SIZES)
class TestEpoch:
    def parts(self, rows, shards, batch, epoch=3):
        """By shard, then by step."""
        return [shard_batches(rows, shards, which, batch, 0, epoch) for which in range(shards)]

    def test_every_row_is_used_once(self, rows, shards, batch):
        for which, steps in enumerate(self.parts(rows, shards, batch)):
            assert sorted(torch.cat([step.rows for step in steps]).tolist()) == list(
                range(len(shard(rows, shards, which)))
            )

    def test_as_many_steps_as_one_process_would_take(self, rows, shards, batch):
        assert {len(steps) for steps in self.parts(rows, shards, batch)} == {math.ceil(rows / batch)}

    def test_weights_are_shares_of_the_step_and_add_up_to_one(self, rows, shards, batch):
        for step in zip(*self.parts(rows, shards, batch), strict=True):
            total = sum(len(part.rows) for part in step)
            assert 0 < total <= batch
            assert [part.weight for part in step] == [len(part.rows) / total for part in step]
            assert abs(sum(part.weight for part in step) - 1) < 1e-12


def test_the_order_depends_on_seed_epoch_and_shard():
    def order(which, seed, epoch):
        return torch.cat([part.rows for part in shard_batches(64, 2, which, 16, seed, epoch)]).tolist()

    assert order(0, 0, 0) == order(0, 0, 0)
    assert len({tuple(order(*each)) for each in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}) == 4


@pytest.mark.parametrize("seed", [20261123, 2**31, 2**62, 2**63 - 1])
def test_any_seed_will_do(seed):
    assert len(shard_batches(64, 2, 1, 16, seed, 100)) == 4
