"""From a task to tensors: every kind of data gives the same rows; what does not fit is said before the clock starts."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune
from torch.utils.data import Dataset, TensorDataset

from cooptim_lab import Task
from cooptim_lab.preparing.building import build_model, build_optimizer, count_parameters
from cooptim_lab.preparing.prepare import prepare
from tests.support import refused

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = 20
X = np.random.default_rng(0).normal(size=(ROWS, 2)).astype("float32")
Y = np.arange(ROWS) % 3
MODEL = nn.Linear(2, 3)


def task(**changed):
    return Task(**{"model": MODEL, "data": (X, Y), **changed})


class Pairs(Dataset):
    """A Dataset of whatever pairs it is given."""

    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


def make_rows():
    return X, Y


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


KINDS = {
    "arrays": (X, Y),
    "a list of two": [X, Y],
    "tensors": (torch.tensor(X), torch.tensor(Y)),
    "tensors with a gradient": (torch.tensor(X, requires_grad=True), torch.tensor(Y)),
    "nested lists": (X.tolist(), Y.tolist()),
    "float64": (X.astype("float64"), Y),
    "small labels": (X, Y.astype("uint8")),
    "read-only": (read_only(X), read_only(Y)),
    "turned round": (np.asfortranarray(X), Y[::-1][::-1]),
    "TensorDataset": TensorDataset(torch.tensor(X), torch.tensor(Y)),
    "Dataset of arrays and numbers": Pairs([(row, int(label)) for row, label in zip(X, Y, strict=True)]),
    "a function": make_rows,
    "a function that makes a Dataset": lambda: Pairs(list(zip(X, Y, strict=True))),
}


@pytest.mark.parametrize("data", KINDS.values(), ids=KINDS)
def test_every_kind_of_data_gives_the_same_rows(data):
    got, expected = prepare(task(data=data)), prepare(task())
    for name in ("x", "y", "held_x", "held_y"):
        assert torch.equal(getattr(got, name), getattr(expected, name))
        assert not getattr(got, name).requires_grad
    assert got.is_classification


def test_rows_are_held_out_and_never_trained_on():
    numbered = np.arange(ROWS, dtype="float32")
    prepared = prepare(task(data=(np.stack([numbered, numbered], 1), Y)))
    held, kept = set(prepared.held_x[:, 0].tolist()), set(prepared.x[:, 0].tolist())
    assert held.isdisjoint(kept)
    assert held | kept == set(numbered.tolist())
    assert len(held) == 4  # a fifth
    for x, y in ((prepared.x, prepared.y), (prepared.held_x, prepared.held_y)):
        assert torch.equal(y, x[:, 0].long() % 3)  # labels went along with their rows


def test_the_seed_of_the_task_chooses_the_held_out_rows():
    assert torch.equal(prepare(task(seed=1)).held_x, prepare(task(seed=1)).held_x)
    assert not torch.equal(prepare(task(seed=1)).held_x, prepare(task(seed=2)).held_x)


@pytest.mark.parametrize(("part", "held"), [(0.01, 1), (0.5, 10), (0.99, 19)])
def test_there_is_always_a_row_on_both_sides(part, held):
    prepared = prepare(task(held_out=part))
    assert (len(prepared.held_x), len(prepared.x)) == (held, ROWS - held)


def test_what_the_user_gave_is_never_changed():
    x, y, model = torch.tensor(X), torch.tensor(Y), nn.Sequential(nn.Linear(2, 3), nn.Dropout())
    before = [x.clone(), y.clone(), *(p.detach().clone() for p in model.parameters())]
    model.eval()
    prepared = prepare(task(model=model, data=(x, y)))
    built = prepared.model(0)
    prepared.optimizer(built.parameters())
    with torch.no_grad():
        for p in (prepared.x, prepared.held_x, *built.parameters()):
            p.add_(1)
    assert all(torch.equal(a, b) for a, b in zip(before, [x, y, *model.parameters()], strict=True))
    assert not model.training
    assert built.training
    assert all(p.grad is None for p in model.parameters())


def test_the_models_dtype_decides_the_datas():
    for dtype in (torch.float32, torch.float64):
        assert prepare(task(model=nn.Linear(2, 3, dtype=dtype))).x.dtype == dtype
    regression = prepare(task(model=nn.Linear(2, 1, dtype=torch.float64), data=(X, X[:, :1])))
    assert regression.y.dtype == torch.float64
    assert not regression.is_classification


def test_an_embedding_gets_whole_numbers():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(8, 3))
    assert prepare(task(model=model, data=(np.zeros((ROWS, 2), dtype="int32"), Y))).x.dtype == torch.int64


# The model and its seed.


def test_a_function_makes_the_model_under_the_seed_and_a_module_is_copied():
    def weights(model, seed):
        return build_model(model, seed).weight

    def make():
        return nn.Linear(2, 3)

    assert torch.equal(weights(make, 1), weights(make, 1))
    assert not torch.equal(weights(make, 1), weights(make, 2))
    assert torch.equal(weights(MODEL, 1), weights(MODEL, 2))
    assert weights(MODEL, 1) is not MODEL.weight


def test_parameters_are_counted_with_the_frozen_ones():
    model = nn.Linear(2, 3)
    model.bias.requires_grad_(False)
    assert count_parameters(model) == 9


# The optimizer.


def test_a_ready_made_optimizers_settings_are_taken_over():
    given = torch.optim.SGD(MODEL.parameters(), lr=0.25, momentum=0.5, nesterov=True, weight_decay=0.125)
    built = build_optimizer(task(optimizer=given), list(nn.Linear(4, 5).parameters()))
    assert type(built) is torch.optim.SGD
    group = built.param_groups[0]
    assert [group[k] for k in ("lr", "momentum", "nesterov", "weight_decay")] == [0.25, 0.5, True, 0.125]
    assert [tuple(p.shape) for p in group["params"]] == [(5, 4), (5,)]


def test_a_rate_that_was_changed_later_is_taken_over():
    given = torch.optim.Adam(MODEL.parameters())
    given.param_groups[0]["lr"] = 0.5
    assert build_optimizer(task(optimizer=given), list(MODEL.parameters())).param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.NAdam, torch.optim.Rprop, torch.optim.ASGD])
def test_ready_made_it_may_be_of_any_kind(kind):
    given = kind(MODEL.parameters(), lr=0.25)
    built = build_optimizer(task(optimizer=given), [MODEL.weight])
    assert type(built) is kind
    settings = {key: value for key, value in given.param_groups[0].items() if key != "params"}
    assert settings == {key: value for key, value in built.param_groups[0].items() if key != "params"}


def test_an_optimizer_that_wants_a_closure_is_refused():
    with refused("LBFGS", "closure", "Adam"):
        build_optimizer(task(optimizer=torch.optim.LBFGS), [MODEL.weight])


@pytest.mark.parametrize(
    ("optimizer", "kind"),
    [(None, "Adam"), (torch.optim.AdamW, "AdamW"), (lambda parameters: torch.optim.SGD(parameters, lr=0.1), "SGD")],
)
def test_an_optimizer_from_nothing_a_class_or_a_function(optimizer, kind):
    assert type(build_optimizer(task(optimizer=optimizer), list(MODEL.parameters()))).__name__ == kind


def test_an_optimizer_with_groups_is_refused():
    with refused("several parameter groups", "function"):
        build_optimizer(
            task(optimizer=torch.optim.Adam([{"params": [MODEL.weight]}, {"params": [MODEL.bias]}])), [MODEL.weight]
        )


def test_what_is_no_optimizer_is_refused():
    with refused("optimizer(parameters)", "list", "Optimizer"):
        build_optimizer(task(optimizer=list), [MODEL.weight])


# What does not fit.


class Returns(nn.Module):
    """A model that gives whatever `change` makes of a linear layer's output."""

    def __init__(self, change):
        super().__init__()
        self.linear, self.change = nn.Linear(2, 3), change

    def forward(self, x):
        return self.change(self.linear(x))


def each_row(outputs, targets):
    return functional.cross_entropy(outputs, targets, reduction="none")


def fail(*anything):
    raise RuntimeError("first line\nsecond line")


def nan_model():
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight[1, 0] = torch.nan
    return model


def locked():
    model = nn.Linear(2, 3)
    model.lock = threading.Lock()
    return model


def pruned():
    model = nn.Sequential(nn.Linear(2, 3))
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


class InPlace(Returns):
    def __init__(self):
        super().__init__(None)

    def forward(self, x):
        return self.linear(x.mul_(2))


def with_label(label, rows=slice(None)):
    y = Y.copy()
    y[rows] = label
    return X, y


NAN = X.copy()
NAN[3, 1], NAN[5, 0] = np.nan, np.inf
A_ROW_OF_TRAINING = next(i for i in range(ROWS) if torch.tensor(X)[i].tolist() in prepare(task()).x.tolist())

BAD = {
    "labels too high": ({"data": with_label(3, [A_ROW_OF_TRAINING])}, ("3 outputs", "labels up to 3", "needs 4")),
    "labels too high for a loss of one's own": (
        {"data": with_label(3, [A_ROW_OF_TRAINING]), "loss": nn.CrossEntropyLoss()},
        ("3",),
    ),
    "negative labels": ({"data": with_label(-1, [0])}, ("label -1", "start at 0")),
    "classes without a dimension": ({"model": Returns(lambda out: out[:, 0])}, ("(16,)", "(rows, classes)")),
    "string labels": ({"data": (X, np.array(["a", "b"] * 10))}, ("y holds", "<U1", "numbers")),
    "objects": ({"data": (np.array([object()] * ROWS), Y)}, ("X holds object", "numbers")),
    "rows of unequal length": ({"data": ([[1.0, 2.0], [3.0]], [0, 1])}, ("X",)),
    "not finite": ({"data": (NAN, Y)}, ("X has 2 values", "not finite")),
    "y not finite": ({"model": nn.Linear(2, 1), "data": (X, NAN[:, :1])}, ("y has", "not finite")),
    "too narrow rows": ({"data": (X[:, :1], Y)}, ("cannot take a batch of shape (4, 1)",)),
    "a model that raises": ({"model": Returns(fail)}, ("cannot take a batch", "RuntimeError: first line")),
    "a model that returns a tuple": ({"model": Returns(lambda out: (out, out))}, ("returns a tuple", "one tensor")),
    "a model that loses rows": ({"model": Returns(lambda out: out[:1])}, ("1 rows for 4", "batch")),
    "a model that gives whole numbers": ({"model": Returns(lambda out: out.long())}, ("int64", "floats")),
    "a model that is NaN": ({"model": nan_model()}, ("NaN before it was trained",)),
    "a model that is not ready": ({"model": nn.LazyLinear(3)}, ("lazy layer", "run a batch")),
    "a model that cannot be copied": ({"model": locked()}, ("the model cannot be copied", "a lock")),
    "a model that works in place": ({"model": InPlace()}, ("inputs in place", "x.clone()")),
    "a model without parameters": ({"model": nn.ReLU()}, ("no parameter to train",)),
    "a function that makes no model": ({"model": lambda: "net"}, ("model() returned a str", "nn.Module")),
    "a loss per row": ({"loss": each_row}, ("loss returns a tensor of shape (16,)", "mean over the rows")),
    "a loss that is a float": ({"loss": lambda out, y: 0.5}, ("loss returns a float", "as a tensor")),
    "a loss that forgets": ({"loss": lambda out, y: out.detach().mean()}, ("differentiated", "without detach()")),
    "a loss that raises": ({"loss": fail}, ("loss cannot take", "(16, 3)", "RuntimeError: first line")),
    "a regression of another shape": (
        {"model": nn.Linear(2, 1), "data": (X, X[:, 0])},
        ("(rows, 1) and y is (rows,)", "y.reshape(-1, 1)"),
    ),
    "classes as floats": ({"data": (X, Y.astype(float))}, ("(rows, 3) and y is (rows,)", "whole numbers")),
    "classes in a column": ({"data": (X, Y[:, None])}, ("y is (rows, 1)", "y.reshape(-1)")),
    "a function that gives too much": ({"data": lambda: (X, Y, Y)}, ("3 parts", "(X, y)")),
    "a function that gives unequal lengths": ({"data": lambda: (X, Y[1:])}, ("20 rows", "19")),
    "a Dataset of unlike rows": ({"data": Pairs([(X[0], 0), (X[0, :1], 1)])}, ("X", "Dataset", "stacked")),
    "a Dataset of words": ({"data": Pairs([(X[0], "a"), (X[0], "b")])}, ("y", "Dataset", "stacked")),
    "a Dataset of dictionaries": ({"data": Pairs([{"x": X[0], "y": 0}] * 5)}, ("Dataset", "dict")),
    "a Dataset without labels": ({"data": Pairs([X[0]] * 5)}, ("Dataset",)),
}


@pytest.mark.parametrize(("changed", "said"), BAD.values(), ids=BAD)
def test_what_does_not_fit_is_said_in_one_line(changed, said):
    with refused(*said):
        prepare(task(**changed))


def test_a_pruned_model_is_carried_with_its_mask():
    built = prepare(task(model=pruned())).model(0)
    assert built[0].weight_mask.sum() == 3
    built(torch.ones(1, 2)).sum().backward()
    assert bool((built[0].weight_orig.grad[built[0].weight_mask == 0] == 0).all())


# Scoring.


def test_scores_on_the_held_out_rows():
    prepared = prepare(task())
    outputs = functional.one_hot(prepared.held_y, 3).float() * 9
    assert prepared.score(outputs).metric == 1.0
    assert prepared.score(outputs).metric_name == "accuracy"
    assert prepared.score(outputs.roll(1, 1)).metric == 0.0
    assert prepared.score(outputs).loss == float(functional.cross_entropy(outputs, prepared.held_y))


def test_a_metric_of_ones_own_is_used_and_named():
    def largest(outputs, targets):
        return outputs.max()

    prepared = prepare(task(metric=largest))
    assert prepared.score(torch.eye(4, 3) * 5).metric == 5.0
    assert prepared.score(torch.eye(4, 3)).metric_name == "largest"


def test_a_metric_that_is_no_number_is_said():
    with refused("metric returns a tensor of shape (4, 3)", "one number"):
        prepare(task(metric=lambda outputs, targets: outputs)).score(torch.eye(4, 3))
    assert prepare(task(metric=lambda outputs, targets: 1)).score(torch.eye(4, 3)).metric_name == "metric"


def test_scoring_is_in_evaluation_mode_and_gives_the_mode_back():
    prepared, model = prepare(task()), nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 3)).train()
    assert torch.equal(prepared.outputs(model), prepared.outputs(model))
    assert model.training


def test_a_loss_of_ones_own_may_know_what_is_missing():
    def seen_only(out, y):
        seen = ~y.isnan()
        return (out[seen] - y[seen]).square().mean()

    y = X[:, :1].copy()
    y[-1] = np.nan
    prepare(Task(model=nn.Linear(2, 1), data=(X, y), loss=seen_only))
