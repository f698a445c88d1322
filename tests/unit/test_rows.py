"""Rows that are read when they are taken: the same tensors as prepare makes of all, and no more of a file than that."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from cooptim_lab import Task
from cooptim_lab.data import rows as module
from cooptim_lab.data.holding import hold_out
from cooptim_lab.data.rows import ArrayRows, Form, TensorRows, open_rows
from cooptim_lab.preparing.prepare import prepare
from tests.support import refused, run_python

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = 40
X = np.random.default_rng(0).normal(size=(ROWS, 2)).astype("float32")
Y = np.arange(ROWS) % 3
MODEL = nn.Linear(2, 3)
EMBEDDING = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 3))
WORDS = np.random.default_rng(1).integers(0, 5, (ROWS, 2)).astype("int32")


class Pairs(Dataset):
    """A Dataset of whatever pairs it is given."""

    def __init__(self, pairs):
        self.pairs, self.read = pairs, []

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        self.read.append(index)
        return self.pairs[index]


def pairs(x=X, y=Y):
    return Pairs([(row, label.item()) for row, label in zip(x, y, strict=True)])


DATA = {
    "arrays": (MODEL, (X, Y)),
    "float64": (MODEL, (X.astype("float64"), Y.astype("uint8"))),
    "big-endian": (MODEL, (X.astype(">f8"), Y.astype(">i4"))),
    "turned round": (MODEL, (np.asfortranarray(X), Y[::-1][::-1])),
    "backwards": (MODEL, (X[::-1, ::-1], Y[::-1])),
    "nested lists": (MODEL, (X.tolist(), Y.tolist())),
    "tensors": (MODEL, (torch.tensor(X, requires_grad=True), torch.tensor(Y))),
    "bfloat16": (MODEL, (torch.tensor(X).bfloat16(), Y.tolist())),
    "whole numbers as X": (MODEL, (WORDS, Y)),
    "TensorDataset": (MODEL, TensorDataset(torch.tensor(X), torch.tensor(Y))),
    "Dataset": (MODEL, pairs()),
    "Dataset of tensors": (MODEL, Pairs(list(zip(torch.tensor(X, requires_grad=True), torch.tensor(Y), strict=True)))),
    "a function": (MODEL, lambda: (X, Y)),
    "a function that makes a Dataset": (MODEL, pairs),
    "float labels": (nn.Linear(2, 1), (X, X[:, :1].astype("float64"))),
    "Dataset of float labels": (nn.Linear(2, 1), Pairs([(row, row[:1]) for row in X])),
    "labels of two dimensions": (nn.Linear(2, 2), (X, X)),
    "a model in float64": (nn.Linear(2, 1, dtype=torch.float64), (X, X[:, :1])),
    "embedding": (EMBEDDING, (WORDS, Y)),
    "embedding of a Dataset": (EMBEDDING, Pairs(list(zip(WORDS, Y, strict=True)))),
}


@pytest.mark.parametrize(("model", "data"), DATA.values(), ids=DATA)
class TestTaken:
    def test_as_prepare_gives_them(self, model, data):
        task = Task(model=model, data=data, seed=3)
        rows, prepared = open_rows(task, model), prepare(task)
        order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(3))
        for got, expected in zip(
            [*rows.take(order[8:]), *rows.take(order[:8].int())],
            [prepared.x, prepared.y, prepared.held_x, prepared.held_y],
            strict=True,
        ):
            assert (got.dtype, got.requires_grad) == (expected.dtype, False)
            assert torch.equal(got, expected)
        assert len(rows) == ROWS

    def test_any_rows_in_any_order(self, model, data):
        rows = open_rows(Task(model=model, data=data), model)
        everything = rows.take(torch.arange(ROWS))
        for wanted in ([], [5], [7, 3, 3, 39, 0]):
            for got, all_of_it in zip(rows.take(torch.tensor(wanted, dtype=torch.int32)), everything, strict=True):
                assert got.dtype == all_of_it.dtype
                assert torch.equal(got, all_of_it[torch.tensor(wanted, dtype=torch.int64)])

    def test_labels_are_those_of_all_rows(self, model, data):
        rows = open_rows(Task(model=model, data=data), model)
        y = rows.take(torch.arange(ROWS))[1]
        if y.is_floating_point():
            assert rows.labels() is None
        else:
            np.testing.assert_array_equal(rows.labels(), y.numpy())


def test_tensors_that_are_ready_are_given_as_they_are():
    rows = TensorRows(torch.tensor(X), torch.tensor(Y))
    x, y = rows.take(torch.tensor([3, 1], dtype=torch.int32))
    assert (len(rows), x.tolist(), y.tolist()) == (ROWS, X[[3, 1]].tolist(), Y[[3, 1]].tolist())
    np.testing.assert_array_equal(rows.labels(), Y)
    assert TensorRows(torch.tensor(X), torch.tensor(X)).labels() is None


def test_what_was_taken_is_nobody_elses():
    x, y = X.copy(), Y.copy()
    for part in open_rows(Task(model=MODEL, data=(x, y)), MODEL).take(torch.arange(ROWS)):
        part.add_(1)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(y, Y)


def test_labels_of_several_dimensions_are_none():
    assert open_rows(Task(model=MODEL, data=(X, WORDS)), MODEL).labels() is None


# A Dataset.


def test_only_the_rows_that_are_asked_for_are_read():
    data = pairs()
    rows = open_rows(Task(model=MODEL, data=data), MODEL)
    rows.take(torch.tensor([5, 2]))
    assert data.read == [0, 5, 2]


@pytest.mark.parametrize(
    ("targets", "transform", "read"),
    [
        (Y.tolist(), None, False),
        (torch.tensor(Y), None, False),
        (Y, abs, True),
        (Y[1:], None, True),
        ("no", None, True),
    ],
    ids=["list", "tensor", "transformed", "of other rows", "other things"],
)
def test_labels_are_known_without_reading_where_the_dataset_has_targets(targets, transform, read):
    data = pairs()
    data.targets, data.target_transform = targets, transform
    np.testing.assert_array_equal(open_rows(Task(model=MODEL, data=data), MODEL).labels(), Y)
    assert (len(data.read) > 1) == read


def test_row_0_says_of_which_kind_the_labels_are():
    mixed = Task(model=nn.Linear(2, 1), data=Pairs([(row, i / 2 if i % 2 else i) for i, row in enumerate(X)]))
    rows = open_rows(mixed, mixed.model)
    with refused("whole numbers as y of row 0", "floats"):
        rows.take(torch.tensor([1, 2]))
    floats = Task(model=nn.Linear(2, 1), data=Pairs([(row, i if i % 2 else i / 2) for i, row in enumerate(X)]))
    assert open_rows(floats, floats.model).take(torch.tensor([1]))[1].tolist() == [1.0]


# What does not fit.

NAN = X.copy()
NAN[3, 1], NAN[5, 0] = np.nan, np.inf
BAD = {
    "string labels": ((X, np.array(["a", "b"] * 20)), ("y holds", "<U1", "numbers")),
    "rows of unequal length": (([[1.0, 2.0], [3.0]], [0, 1]), ("X", "different lengths")),
    "not finite": ((NAN, Y), ("X has 2 values", "not finite")),
    "y not finite": ((X, NAN[:, :1]), ("y has 1 values", "not finite")),
    "a function that gives too much": (lambda: (X, Y, Y), ("3 parts", "(X, y)")),
    "a Dataset that is not finite": (pairs(NAN), ("X has 2 values", "not finite")),
    "a Dataset of unlike rows": (Pairs([(X[0], 0), (X[0, :1], 1)]), ("X", "Dataset", "stacked")),
    "a Dataset of words": (Pairs([(X[0], "a"), (X[0], "b")]), ("y", "Dataset", "stacked")),
    "a Dataset of dictionaries": (Pairs([{"x": X[0], "y": 0}] * 5), ("Dataset", "dict")),
    "a Dataset of one row": (Pairs([(X[0], 0)]), ("1 rows", "at least 2")),
    "a TensorDataset of one row": (TensorDataset(torch.tensor(X[:1]), torch.tensor(Y[:1])), ("1 rows", "at least 2")),
}


@pytest.mark.parametrize(("data", "said"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_said_in_one_line_and_as_prepare_says_it(data, said):
    task, messages = Task(model=MODEL, data=data), []
    for use in (lambda: [rows := open_rows(task, MODEL), rows.take(torch.arange(len(rows)))], lambda: prepare(task)):
        with refused(*said):
            try:
                use()
            except Exception as error:
                messages.append(str(error))
                raise
    assert messages[0] == messages[1]


def test_only_what_is_taken_must_be_finite():
    rows = open_rows(Task(model=MODEL, data=(NAN, Y)), MODEL)
    assert torch.isfinite(rows.take(torch.tensor([0, 1, 2]))[0]).all()
    with refused("X has 1 values"):
        rows.take(torch.tensor([0, 3]))


# Files that are mapped.

WIDTH = 256  # 1 KiB a row


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """200 MB of float32; row i is i, i + 1, ..."""
    path = tmp_path_factory.mktemp("large") / "x.bin"
    with path.open("wb") as file:
        for start in range(0, 200_000, 10_000):
            block = np.arange(start, start + 10_000, dtype="float32")[:, None] + np.arange(WIDTH, dtype="float32")
            file.write(block.tobytes())
    yield SimpleNamespace(path=path, shape=(200_000, WIDTH))
    path.unlink()


@pytest.fixture
def growth(large, monkeypatch):
    """Takes all rows of the file in random batches, and gives the MB by which this process was larger meanwhile."""
    me, read, sizes = psutil.Process(), module._Column._read, []

    def watched(self, rows):
        found = read(self, rows)
        sizes.append(me.memory_info().rss)
        return found

    monkeypatch.setattr(module._Column, "_read", watched)

    def measure():
        x = np.memmap(large.path, "float32", "r", shape=large.shape)
        rows = ArrayRows(x, np.zeros(len(x), dtype="uint8"), Form(torch.float32, False))
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
        before = me.memory_info().rss
        sizes.clear()
        for wanted in order.split(1000):
            taken, _ = rows.take(wanted)
            assert torch.equal(taken[:, 0], wanted.float())
            assert torch.equal(taken[:, -1], wanted.float() + WIDTH - 1)
        return (max(sizes) - before) / 1e6

    return measure


def test_a_file_that_is_read_does_not_stay_in_memory(growth, monkeypatch):
    assert growth() < 30
    # Breakage: pages that are touched stay.
    monkeypatch.setattr(module, "place_in_file", lambda part: None)
    assert growth() > 120


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_what_was_written_to_a_map_is_never_lost(large, mode):
    x = np.memmap(large.path, "float32", mode, shape=large.shape)
    if mode != "r":
        x[::1000, 1] = -1
    rows = ArrayRows(x, np.zeros(len(x)), Form(torch.float32, False))
    for wanted in torch.arange(0, 200_000, 100).split(500):
        rows.take(wanted)
    taken, _ = rows.take(torch.tensor([3000, 1000, 1001]))
    assert taken[:, 1].tolist() == ([3001, 1001, 1002] if mode == "r" else [-1, -1, 1002])
    if mode == "r+":
        x[::1000, 1] = np.arange(1, 200_000, 1000)  # as it was


def test_a_slice_of_a_map_has_its_own_rows(large):
    x = np.memmap(large.path, "float32", "r", shape=large.shape)[50_000:]
    taken, _ = ArrayRows(x, np.zeros(len(x)), Form(torch.float64, False)).take(torch.tensor([149_999, 0]))
    assert taken[:, 0].tolist() == [199_999, 50_000]
    assert taken.dtype == torch.float64


# Held-out rows.


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("part", [0.01, 0.2, 0.99])
def test_the_held_out_rows_are_those_of_prepare(seed, part):
    numbered = np.arange(ROWS, dtype="float32")
    prepared = prepare(Task(model=MODEL, data=(np.stack([numbered] * 2, 1), Y), held_out=part, seed=seed))
    training, held = hold_out(ROWS, part, seed)
    assert (training.dtype, held.dtype) == (torch.int32, torch.int32)
    assert held.tolist() == prepared.held_x[:, 0].tolist()
    assert training.tolist() == sorted(prepared.x[:, 0].tolist())


def test_the_permutation_is_the_one_that_torch_draws_by_default():
    """On which results of earlier versions rest."""
    order = torch.randperm(100_000, generator=torch.Generator().manual_seed(7))
    training, held = hold_out(100_000, 0.25, 7)
    assert torch.equal(held.long(), order[:25_000])
    assert torch.equal(training.long(), order[25_000:].sort().values)


PEAK = """
from pathlib import Path
from cooptim_lab.data.holding import hold_out

def peak():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024

hold_out(10, 0.2, 0)
before = peak()
hold_out(10**7, 0.2, 0)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own account of it")
def test_ten_million_rows_are_held_out_in_little_memory():
    done = run_python(PEAK)
    assert done.returncode == 0, done.stderr
    assert 30 < float(done.stdout) < 100
