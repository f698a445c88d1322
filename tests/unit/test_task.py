"""A task from objects and from names: what cannot be used is refused in one line, before anything starts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cooptim_lab import InputError, LabError, Task
from tests.support import refused

X, Y = np.zeros((6, 2), dtype="float32"), np.array([0, 1, 2, 0, 1, 2])
MODEL = nn.Linear(2, 3)
GOOD = {"model": MODEL, "data": (X, Y)}


def test_an_input_error_is_a_lab_error_and_a_value_error():
    assert issubclass(InputError, LabError)
    assert issubclass(InputError, ValueError)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": "resnet"}, ("model", "str", "nn.Module")),
        ({"model": None}, ("model", "NoneType", "function")),
        ({"data": (X, Y[:-1])}, ("X has 6 rows", "y has 5", "same number")),
        ({"data": (X, Y, Y)}, ("3 parts", "(X, y)")),
        ({"data": (X,)}, ("1 parts", "(X, y)")),
        ({"data": (X, 3)}, ("y is a int", "array")),
        ({"data": (X[:1], Y[:1])}, ("1 rows", "at least 2")),
        ({"data": 7}, ("data is a int", "(X, y)", "Dataset")),
        ({"data": None}, ("data is a NoneType", "(X, y)")),
        ({"data": X}, ("(X, y)",)),
        ({"data": torch.zeros(6, 2)}, ("(X, y)",)),
        ({"data": "digits"}, ("data is a str", "(X, y)")),
        ({"data": {"X": X, "y": Y}}, ("data is a dict", "(X, y)")),
        ({"loss": "mse"}, ("loss is a str", "function")),
        ({"metric": 3}, ("metric is a int", "function")),
        ({"subnet": [1, 2]}, ("subnet is a list", "function")),
        ({"loss": nn.CrossEntropyLoss}, ("loss is the class CrossEntropyLoss", "CrossEntropyLoss()")),
        ({"optimizer": "adam"}, ("optimizer is a str", "function")),
        ({"held_out": 0}, ("held_out = 0", "between 0 and 1")),
        ({"held_out": 1.0}, ("held_out = 1.0", "between 0 and 1")),
        ({"held_out": -0.1}, ("held_out = -0.1", "between 0 and 1")),
        ({"held_out": float("nan")}, ("held_out = nan", "between 0 and 1")),
        ({"held_out": "a fifth"}, ("held_out", "a fifth", "between 0 and 1")),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(changed, said):
    with refused(*said):
        Task(**{**GOOD, **changed})


def test_an_optimizer_of_some_of_the_parameters_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with refused("2 of the model's 4 parameters", "requires_grad_(False)"):
        Task(model=model, data=(X, Y), optimizer=torch.optim.Adam(model[1].parameters()))
    model[0].requires_grad_(False)
    for some in (model[1], model, nn.Linear(2, 2)):  # of another network nobody can tell
        Task(model=model, data=(X, Y), optimizer=torch.optim.Adam(some.parameters()))


def test_a_class_is_a_function_that_makes_a_model():
    assert Task(model=nn.Identity, data=(X, Y), subnet=nn.Identity).model is nn.Identity


def test_a_dataset_without_a_length_is_refused():
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([])

    with refused("Endless", "length", "__len__"):
        Task(model=MODEL, data=Endless())


def test_a_task_of_names_is_the_task_of_the_same_objects():
    names = {**GOOD, "loss": nn.CrossEntropyLoss(), "held_out": 0.9, "helper": print, "subnet": lambda i: MODEL}
    task = Task.from_names(names, seed=3)
    assert (task.model, task.data, task.loss, task.subnet) == tuple(
        names[n] for n in ("model", "data", "loss", "subnet")
    )
    assert (task.held_out, task.seed) == (0.2, 3)  # a body's other names are its own business


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({}, ("empty", "model", "data")),
        ({"data": (X, Y)}, ("does not define model", "data")),
        ({"modle": MODEL, "data": (X, Y)}, ("does not define model", "did you mean model = modle?")),
        ({"model": MODEL, "date": (X, Y)}, ("does not define data", "did you mean data = date?")),
        ({"model": MODEL, "rows": (X, Y)}, ("does not define data", "model, rows")),
    ],
)
def test_a_body_that_lacks_a_name_is_told_which(names, said):
    with refused(*said):
        Task.from_names(names)


def test_a_bad_value_in_a_body_is_refused_like_anywhere():
    with refused("X has 6 rows", "y has 5"):
        Task.from_names({"model": MODEL, "data": (X, Y[1:])})
