"""The way `sharded` through a pool: data of every kind, what is refused, where the time went, a user's own way."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from cooptim_lab import RankPool, Task, digits, train_sharded
from cooptim_lab.runs.events import Note, Progress, Spent, Stale
from tests.support import PATIENCE_SECONDS, refused, wait_until

pytestmark = pytest.mark.mpi

X = np.random.default_rng(0).normal(size=(400, 6))
Y = (X[:, 0] > X[:, 1]).astype("int64") + (X[:, 2] > 0)


@pytest.fixture(scope="module")
def pool():
    with RankPool(2) as pool:
        yield pool


def network():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def train(pool, task=None, **options):
    task = task or Task(model=network, data=(X, Y), name="test")
    run = train_sharded(task, pool=pool, **{"workers": 2, "epochs": 3, "batch": 32, **options})
    return run.wait(PATIENCE_SECONDS), run


def weights(result):
    return torch.cat([p.detach().flatten() for p in result.network.parameters()])


class Counted(Dataset):
    """Tells which of its rows were read."""

    def __init__(self):
        self.read = set()

    def __len__(self):
        return len(X)

    def __getitem__(self, row):
        self.read.add(row)
        return X[row], int(Y[row])


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield from zip(X, Y, strict=True)


def test_an_array_a_mapped_file_and_a_dataset_are_the_same_data(pool, tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    results = [
        train(pool, Task(model=network, data=data, name="test"), aggregate="ordered")[0]
        for data in ((X, Y), (mapped, Y), Counted())
    ]
    assert all(torch.equal(weights(result), weights(results[0])) for result in results)
    assert len({result.loss for result in results}) == 1


def test_a_rank_reads_its_own_shard_of_a_dataset():
    from cooptim_lab.data.holding import hold_out
    from cooptim_lab.data.rows import keep, open_rows
    from cooptim_lab.shards.deal import deal

    dataset = Counted()
    rows = open_rows(Task(model=network, data=dataset), network())
    training, held = hold_out(len(rows), 0.2, 0)
    mine = deal(training, 4, 1, "shuffle", 0)
    keep(rows, mine.rows)
    assert dataset.read <= set(mine.rows.tolist()) | {0}  # row 0 says of which kind they all are
    assert len(held) == 80


@pytest.mark.parametrize("how", [{"shards": "order"}, {"shards": "stratify"}, {"skew": 0.5}, {"compress": "bf16"}])
def test_every_deal_trains(pool, how):
    task = Task(model=network, data=(X, Y), optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.03))
    result, _ = train(pool, task, **how, epochs=10)
    assert result.state == "done"
    assert result.metric > 0.5


@pytest.mark.parametrize("way", ["server", "allreduce", "ordered", "shared", "local", "diloco", "async"])
def test_where_the_time_went(pool, way):
    result, run = train(pool, aggregate=way, epochs=20)
    assert [part["rank"] for part in result.breakdown] == [0, 1]
    for part in result.breakdown:
        assert part["steps"] == result.steps == 20 * 10
        assert part["compute"] > 0
        assert part["communication"] >= 0
        assert part["waiting"] >= 0
        assert (part["sent"] > 0) == (way != "shared")  # the fastest message is the one that is not sent
        spent = part["compute"] + part["communication"] + part["waiting"]
        assert spent <= result.seconds * 1.5  # what is told is what has passed, not decided by how much
    told = [event for event in run.log.since(0) if isinstance(event, Spent)]
    assert {event.rank for event in told} == {0, 1}
    assert sum(event.steps for event in told if event.rank == 1) == result.steps
    assert (result.staleness is not None) == (way == "async")
    assert any(isinstance(event, Stale) for event in run.log.since(0)) == (way == "async")


class Plain:
    def aggregate(self, comm, gradient):
        gradient[:] = sum(comm.allgather(gradient))


def test_a_users_own_way_travels_by_value(pool):
    result, _ = train(pool, aggregate=Plain)
    assert result.engine == "Plain"
    assert result.options["aggregate"] == "Plain"
    expected, _ = train(pool, aggregate="ordered")
    assert (weights(result) - weights(expected)).abs().max() < 1e-12


@pytest.mark.parametrize("way", ["server", "allreduce", "local", "async"])
@pytest.mark.parametrize("epochs", [1, 5])
def test_a_scheduler_with_a_fixed_end_comes_to_it_and_no_further(pool, way, epochs):
    def schedule(optimizer, steps):
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)

    def sgd(parameters):
        return torch.optim.SGD(parameters, lr=0.1)

    task = Task(model=network, data=(X, Y), optimizer=sgd, scheduler=schedule)
    result, _ = train(pool, task, aggregate=way, epochs=epochs, batch=160)
    assert result.steps == 2 * epochs


@pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
@pytest.mark.parametrize("how", ["ready", "made on the rank"])
def test_a_hook_on_a_part_of_a_gradient_is_refused(pool, register, how):
    def hooked():
        model = network()
        getattr(model[2].weight, register)(lambda g: None)
        return model

    task = Task(model=hooked() if how == "ready" else hooked, data=(X, Y))
    with refused("a hook on the gradient of 2.weight", "each rank's part", "clip"):
        train(pool, task)
    assert train(pool, task, workers=1)[0].state == "done"


def test_batchnorm_is_named(pool):
    def normed():
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).double()

    task = Task(model=normed, data=(X, Y))
    result, run = train(pool, task, aggregate="allreduce")
    (note,) = [event for event in run.log.since(0) if isinstance(event, Note)]
    assert "over the rows of all ranks" in note.text
    assert not note.is_doubt
    assert type(result.network[1]) is nn.BatchNorm1d  # a plain network comes back
    _, run = train(pool, task, aggregate="local")
    (note,) = [event for event in run.log.since(0) if isinstance(event, Note)]
    assert "differs from one process" in note.text


def rows_by_rank():
    rows = 400 + 100 * int(os.environ.get("PMI_RANK", "0"))
    return np.resize(X, (rows, 6)), np.resize(Y, rows)


def normed_view():
    """BatchNorm, and a view as many write it, which no tensor without rows can take."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear = nn.BatchNorm1d(6).double(), nn.Linear(6, 3).double()

        def forward(self, x):
            return self.linear(self.norm(x).view(x.size(0), -1))

    return Net()


def uneven():
    """Another network on rank 1."""
    return nn.Linear(6, 3 + int(os.environ.get("PMI_RANK", "0"))).double()


def unseeded():
    """Other weights on every rank: not by torch's generator."""
    made = network()
    with torch.no_grad():
        made[0].weight.copy_(torch.from_numpy(np.random.default_rng().normal(size=(8, 6))))
    return made


def test_all_ranks_train_the_network_that_rank_0_makes(pool):
    result, _ = train(pool, Task(model=uneven, data=(X, Y)))
    assert result.network.weight.shape == (3, 6)


class TestBadInput:
    def test_ranks_that_disagree_on_the_data(self, pool):
        with refused("not the same on every rank", "320 rows", "400 on rank 1"):
            train(pool, Task(model=network, data=rows_by_rank))

    def test_a_mistake_of_one_rank_costs_no_rank(self, pool):
        pids = [row["pid"] for row in pool.status()]
        spoilt = X.copy()
        spoilt[7, 0] = np.nan
        with refused("1 values that are not finite"):
            train(pool, Task(model=network, data=(spoilt, Y)))
        assert [row["pid"] for row in pool.status()] == pids

    def test_an_option_that_the_way_has_no_use_for(self):
        with refused("sync_every = 5", "only local and diloco"):
            train_sharded(digits(), sync_every=5)
        with refused("choose one of server", "class with a method aggregate"):
            train_sharded(digits(), aggregate=Plain())

    def test_more_ranks_than_rows(self, pool):
        with refused("workers = 2", "1 rows", "at most 1"):
            train(pool, Task(model=network, data=(X[:2], Y[:2])))

    def test_a_shard_without_rows(self, pool):
        with refused("skew = 0.001", "without rows", "larger skew"):
            train(pool, Task(model=network, data=(X[:40], Y[:40] * 0)), skew=0.001)

    def test_skew_without_classes(self, pool):
        with refused("skew = 0.5", "by their class"):
            train(pool, Task(model=nn.Linear(6, 6).double(), data=(X, X)), skew=0.5)

    def test_a_dataset_without_length(self):
        with refused("data is a Endless"):
            Task(model=network, data=Endless())

    def test_labels_out_of_range_anywhere(self, pool):
        with refused("3 outputs", "labels up to 7"):
            train(pool, Task(model=network, data=(X, np.where(np.arange(400) == 7, 7, Y))))

    @pytest.mark.parametrize("way", ["local", "diloco", "async", "ordered", "shared", Plain])
    def test_compression_where_it_cannot_be(self, way):
        name = way if isinstance(way, str) else "Plain"
        with refused("compress = bf16", f"{name} cannot send that", "allreduce or server"):
            train_sharded(digits(), aggregate=way, compress="bf16")


@pytest.mark.parametrize(("way", "rows", "workers"), [("ordered", 84, 2), ("ordered", 84, 4), ("local", 85, 2)])
def test_batchnorm_with_small_parts(pool, way, rows, workers):
    """67 and 68 rows to train on: the last batch of an epoch leaves a rank one or none, or every rank two."""
    task = Task(model=normed_view, data=(X[:rows], Y[:rows]))
    result, _ = train(pool, task, aggregate=way, workers=workers)
    assert result.state == "done"
    assert np.isfinite(result.loss)


@pytest.mark.parametrize("way", ["server", "ordered", "shared", "local"])
def test_batchnorm_with_a_last_batch_of_one_row(pool, way):
    """65 rows to train on: refused before the clock, as in one process."""
    with refused("cannot train on 1 row", "the last batch of an epoch" if way != "local" else "rank 0's part"):
        train(pool, Task(model=normed_view, data=(X[:81], Y[:81])), aggregate=way)


@pytest.mark.parametrize("way", ["local", "async"])
def test_batchnorm_with_a_part_of_one_row_of_its_own(pool, way):
    """67 rows: of the last three a rank has one, which it would have to normalise by itself."""
    with refused("cannot train on 1 row", "rank 1's part of batch 3"):
        train(pool, Task(model=normed_view, data=(X[:84], Y[:84])), aggregate=way)


@pytest.mark.parametrize("staleness", [0, 1, 5])
@pytest.mark.parametrize("workers", [2, 3])
def test_async_stops_in_the_middle_of_an_epoch(pool, staleness, workers):
    task = Task(model=network, data=(np.resize(X, (100_000, 6)), np.resize(Y, 100_000)))
    options = {"aggregate": "async", "staleness": staleness, "workers": workers, "batch": 8}
    run = train_sharded(task, pool=pool, **options)
    assert wait_until(lambda: any(isinstance(event, Progress) for event in run.log.since(0)))
    run.stop()
    result = run.wait(PATIENCE_SECONDS)
    assert (result.state, run.stop_level) == ("stopped", 1)
    assert 0 < result.steps < 10_000


def some(parameters):
    return torch.optim.SGD(list(parameters)[-2:], lr=0.5)


def test_an_optimizer_of_some_parameters_leaves_the_others(pool):
    before = network()
    task = Task(model=before, data=(X, Y), optimizer=some)
    after = train(pool, task, aggregate="ordered")[0].network
    assert torch.equal(after[0].weight, before[0].weight)
    assert not torch.equal(after[2].weight, before[2].weight)


def test_weights_that_no_seed_decides_are_those_of_rank_0(pool):
    result, _ = train(pool, Task(model=unseeded, data=(X, Y)), aggregate="ordered")
    assert result.state == "done"


def test_one_rank_alone_with_nan_in_its_shard_is_named(pool):
    class Spoilt(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls = nn.Linear(6, 3).double(), 0

        def forward(self, x):
            from mpi4py import MPI

            self.calls += self.training
            is_bad = MPI.COMM_WORLD.Get_rank() == 1 and self.calls > 8
            return self.linear(x) * (float("nan") if is_bad else 1)

    for way in ("server", "local", "async"):
        with refused("in epoch", "not finite on rank 1"):
            how = {"sync_every": 2} if way == "local" else {}
            train(pool, Task(model=Spoilt, data=(X, Y)), aggregate=way, epochs=20, **how)
