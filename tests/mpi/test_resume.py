"""Runs that outlive a rank and a kernel: retries, `resume`, one kernel at a time. Timings decide nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from cooptim_lab import PoolError, RankFailure, RankPool, Run, Task, digits, resume, train_sharded
from cooptim_lab.resuming import Resumption
from cooptim_lab.runs import store
from cooptim_lab.runs.events import Note, Points, Resumed
from cooptim_lab.shards.aggregate import AGGREGATORS
from cooptim_lab.training.spec import Sharded
from tests.support import PATIENCE_SECONDS, refused, wait_until

pytestmark = pytest.mark.mpi

OPTIONS = {"workers": 2, "epochs": 10, "save_every": 10}


@pytest.fixture
def pool():
    with RankPool(2) as pool:
        yield pool


def weights(result):
    return torch.cat([p.detach().flatten() for p in result.network.parameters()])


def checkpoint(run):
    return store.path(run.id, store.CHECKPOINT)


def lose_a_rank(run, pool, rank):
    """Kill a rank once there is a checkpoint."""
    assert wait_until(lambda: checkpoint(run).exists())
    os.kill(pool.status()[rank]["pid"], signal.SIGKILL)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_rank_is_made_good_bit_for_bit(nothing_left, pool, rank):
    options = {**OPTIONS, "aggregate": "ordered"}
    whole = train_sharded(digits(), pool=pool, **options).wait(PATIENCE_SECONDS)
    run = train_sharded(digits(), pool=pool, **options, retries=1)
    lose_a_rank(run, pool, rank)
    result = run.wait(PATIENCE_SECONDS)
    assert torch.equal(weights(result), weights(whole))
    assert result.steps == whole.steps
    (note,) = [event.text for event in run.log.since(0) if isinstance(event, Note)]
    assert note.startswith(f"rank {rank} on ")
    assert "goes on from its last checkpoint, if it had one (retry 1 of 1)" in note
    assert [event.step for event in run.log.since(0) if isinstance(event, Resumed)]
    nothing_left()


@pytest.mark.parametrize("way", ["server", "local", "async"])
def test_every_way_goes_on(pool, way):
    assert way in AGGREGATORS
    run = train_sharded(digits(), pool=pool, aggregate=way, **OPTIONS, retries=1)
    lose_a_rank(run, pool, 1)
    assert run.wait(PATIENCE_SECONDS).state == "done"


def test_without_retries_the_run_fails_and_can_be_resumed(pool):
    options = {**OPTIONS, "aggregate": "ordered"}
    whole = train_sharded(digits(), pool=pool, **options).wait(PATIENCE_SECONDS)
    run = train_sharded(digits(), pool=pool, **options)
    lose_a_rank(run, pool, 1)
    with pytest.raises(RankFailure):
        run.wait(PATIENCE_SECONDS)
    again = resume(run.id, pool=pool)
    assert again.id == run.id
    assert torch.equal(weights(again.wait(PATIENCE_SECONDS)), weights(whole))
    record = store.load(run.id)
    assert record.state == "done"
    assert sum(isinstance(event, Resumed) for event in record.events) == 1
    with refused(run.id, "come to its end"):
        resume(run.id, pool=pool)


class Boom(torch.nn.Module):
    """Raises in the middle: what the program does by itself it would do again."""

    def __init__(self):
        super().__init__()
        self.linear, self.calls = torch.nn.Linear(64, 10), 0

    def forward(self, x):
        self.calls += 1
        if self.calls > 100:
            raise ZeroDivisionError("here")
        return self.linear(x)


def test_what_raises_is_not_tried_again(pool):
    task = Task(model=Boom, data=digits().data)
    run = train_sharded(task, pool=pool, **{**OPTIONS, "epochs": 100}, retries=3)
    with pytest.raises(RankFailure, match="ZeroDivisionError: here"):
        run.wait(PATIENCE_SECONDS)
    assert not any("retry" in event.text for event in run.log.since(0) if isinstance(event, Note))


def test_a_stopped_run_is_not_tried_again_and_can_be_resumed(pool):
    run = train_sharded(digits(), pool=pool, **{**OPTIONS, "epochs": 100_000}, retries=3)
    assert wait_until(lambda: checkpoint(run).exists())
    run.stop()
    assert run.wait(PATIENCE_SECONDS).state == "stopped"
    assert not store.path(run.id, store.LOCK).exists()
    again = resume(run.id, pool=pool)
    assert wait_until(lambda: any(isinstance(event, Points) for event in again.log.since(len(run.log.since(0)))))
    with refused(run.id, "another kernel"):
        resume(run.id, pool=pool)
    again.stop()
    again.wait(PATIENCE_SECONDS)


OWNER = """
import sys
from cooptim_lab import RankPool, digits, train_sharded
pool = RankPool(2)
run = train_sharded(digits(), pool=pool, workers=2, epochs=10, save_every=10, aggregate="ordered")
print(run.id, flush=True)
run.wait()
"""


def test_a_killed_kernels_run_goes_on_in_another(pool, tmp_path):
    whole = train_sharded(digits(), pool=pool, **OPTIONS, aggregate="ordered").wait(PATIENCE_SECONDS)
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        id = owner.stdout.readline().strip()
        assert wait_until(lambda: store.path(id, store.CHECKPOINT).exists())
        with refused(id, "in another kernel"):
            resume(id, pool=pool)
        owner.kill()
    with store.path(id).open("a") as file:
        file.write('{"event": "Points", "cur')  # as a kernel leaves it that dies while it writes
    assert store.load(id).state == "lost"
    assert torch.equal(weights(resume(id, pool=pool).wait(PATIENCE_SECONDS)), weights(whole))
    assert store.load(id).state == "done"


class Plain:
    def aggregate(self, comm, gradient):
        gradient[:] = sum(comm.allgather(gradient))


def test_a_way_of_ones_own_is_kept_with_the_task(pool):
    run = train_sharded(digits(), pool=pool, **{**OPTIONS, "epochs": 100_000}, aggregate=Plain)
    assert wait_until(lambda: checkpoint(run).exists())
    run.stop()
    run.wait(PATIENCE_SECONDS)
    again = resume(run.id, pool=pool)
    assert wait_until(lambda: any(isinstance(event, Resumed) for event in again.log.since(0)))
    again.stop()
    assert again.wait(PATIENCE_SECONDS).engine == "Plain"


def test_a_pool_that_closes_ends_a_run_that_was_to_be_retried(nothing_left):
    with RankPool(2) as own:
        run = train_sharded(digits(), pool=own, **{**OPTIONS, "epochs": 100_000}, retries=100)
        lose_a_rank(run, own, 1)
        nothing_left()
    assert run.join(PATIENCE_SECONDS)
    assert run.state in ("stopped", "failed")
    assert not store.path(run.id, store.LOCK).exists()


def test_a_run_that_a_closed_pool_does_not_take_up_again_fails_as_its_ranks_did():
    run, rescues = Run("sharded", {}), []

    def submit(keeping, rescue):
        if rescues:
            raise PoolError("closed")
        rescues.append(rescue)

    Resumption(run, submit, retries=1).begin(digits(), Sharded(**OPTIONS))
    assert not rescues[0](RankFailure(1, "here", "died"))
    run.fail(RankFailure(1, "here", "died"))
    assert not [event for event in run.log.since(0) if isinstance(event, Note)]


def test_a_record_that_cannot_be_kept_stops_no_training(pool, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(store.PLACE, str(tmp_path / "file"))
    run = train_sharded(digits(), pool=pool, **OPTIONS)
    assert run.wait(PATIENCE_SECONDS).state == "done"
    assert any("cannot be resumed" in event.text for event in run.log.since(0) if isinstance(event, Note))


def test_what_cannot_be_resumed_is_refused(pool):
    with refused("no run nothere"):
        resume("nothere", pool=pool)
    plain = train_sharded(digits(), pool=pool, workers=2, epochs=100_000)
    plain.stop()
    assert wait_until(lambda: plain.ended)
    with refused(plain.id, "--save-every"):
        resume(plain.id, pool=pool)


def test_a_task_on_arrays_and_a_mapped_file_is_kept(pool, tmp_path):
    x = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", shape=(4000, 8), dtype="float32")
    x[:] = np.random.default_rng(0).normal(size=x.shape)
    task = Task(model=lambda: torch.nn.Linear(8, 2), data=(x, (x[:, 0] > 0).astype("int64")))
    run = train_sharded(task, pool=pool, **{**OPTIONS, "epochs": 100_000})
    assert wait_until(lambda: checkpoint(run).exists())
    assert store.path(run.id, store.TASK).stat().st_size < x.nbytes  # by its path, not by value
    run.stop()
    run.wait(PATIENCE_SECONDS)
    again = resume(run.id, pool=pool)
    assert wait_until(lambda: any(isinstance(event, Resumed) for event in again.log.since(0)))
    again.stop()
    assert again.wait(PATIENCE_SECONDS).state == "stopped"
