"""From a Task to tensors on a rank: training rows, held-out rows, a model that was seen to fit them, and how to score.

Everything about a task that can only be checked with torch is checked here, before the clock starts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from ..task import Task, check_data
from .rows import Form, as_tensor, check_finite, draw_held_out, first_line, open_data, read_pairs, stack

IGNORED_LABEL = -100
"""The label that torch's cross-entropy leaves out unless told otherwise."""


@dataclass(frozen=True)
class Score:
    """What a network reaches on the held-out rows."""

    loss: float
    metric: float
    metric_name: str


@dataclass(frozen=True)
class Prepared:
    """A task as tensors. X is (rows, ...) in the model's dtype, y is int64 for classes, else the model's dtype."""

    task: Task
    x: Tensor
    y: Tensor
    held_x: Tensor
    held_y: Tensor

    @property
    def is_classification(self) -> bool:
        return not self.y.is_floating_point()

    def model(self, seed: int) -> nn.Module:
        """The network before training (see `Task.model` for what the seed decides)."""
        return build_model(self.task.model, seed)

    def optimizer(self, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        """The task's optimizer over `parameters`."""
        return build_optimizer(self.task.optimizer, list(parameters))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The task's loss, a scalar: the mean over the rows."""
        return self.loss_function(outputs, targets)

    @property
    def loss_function(self) -> Callable[[Tensor, Tensor], Tensor]:
        return loss_of(self.task, self.y)

    def outputs(self, network: nn.Module) -> Tensor:
        """The network's outputs on the held-out rows, in evaluation mode; the mode it was in comes back."""
        training = network.training
        network.eval()
        try:
            with torch.no_grad():
                return network(self.held_x.clone())  # a network may work in place
        finally:
            network.train(training)

    def score(self, outputs: Tensor) -> Score:
        """Loss and metric of outputs on the held-out rows."""
        return score(self.task, outputs, self.held_y)


def loss_of(task: Task, y: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The task's loss, or the default for such labels."""
    if task.loss is not None:
        return task.loss
    return functional.mse_loss if y.is_floating_point() else functional.cross_entropy


def score(task: Task, outputs: Tensor, y: Tensor) -> Score:
    """Loss and metric of outputs (rows, ...) on labels (rows, ...)."""
    with torch.no_grad():
        loss = float(loss_of(task, y)(outputs, y))
        if task.metric is not None:
            name = getattr(task.metric, "__name__", type(task.metric).__name__)
            return Score(loss, float(task.metric(outputs, y)), name)
        if not y.is_floating_point():
            return Score(loss, float((outputs.argmax(1) == y).double().mean()), "accuracy")
        return Score(loss, loss, "loss")


def prepare(task: Task) -> Prepared:
    """Make tensors of a task's data, hold some out, and see that model, loss and labels fit each other.

    Raises
    ------
    InputError
        One line that names what does not fit.
    """
    probe = build_model(task.model, seed=0)
    x, y = _tensors(task.data, probe)
    rows, held_rows = draw_held_out(len(x), task.held_out, task.seed)
    prepared = Prepared(task, x[rows], y[rows], x[held_rows], y[held_rows])
    labels = torch.cat([prepared.y.flatten(), prepared.held_y.flatten()])
    check_fit(task, probe, prepared.held_x[:4], prepared.held_y[:4], labels)
    return prepared


def build_model(model: Any, seed: int) -> nn.Module:
    """A fresh copy of a module, or what a callable makes under `seed`.

    Raises
    ------
    InputError
        When a callable does not return a module, or the module has nothing to train.
    """
    if isinstance(model, nn.Module):
        built = copy.deepcopy(model)
    else:
        torch.manual_seed(seed)
        built = model()
        if not isinstance(built, nn.Module):
            raise InputError(f"model() returned a {type(built).__name__}: it must return an nn.Module")
    if not any(p.requires_grad for p in built.parameters()):
        raise InputError("the model has no parameter to train")
    return built.train()


def build_optimizer(optimizer: Any, parameters: list[Tensor]) -> torch.optim.Optimizer:
    """An optimizer over `parameters`, from a callable, a class, or a ready-made optimizer whose settings are taken.

    Raises
    ------
    InputError
        When a ready-made optimizer treats groups of parameters differently: its groups cannot be carried over.
    """
    if optimizer is None:
        return torch.optim.Adam(parameters)
    if isinstance(optimizer, torch.optim.Optimizer):
        if len(optimizer.param_groups) > 1:
            raise InputError(
                "optimizer has several parameter groups: give a function instead, optimizer = lambda parameters: ..."
            )
        settings = {k: v for k, v in optimizer.param_groups[0].items() if k in optimizer.defaults}
        return type(optimizer)(parameters, **settings)
    built = optimizer(parameters)
    if not isinstance(built, torch.optim.Optimizer):
        raise InputError(f"optimizer(parameters) returned a {type(built).__name__}: it must return a torch Optimizer")
    return built


def count_parameters(network: nn.Module) -> int:
    """How many numbers the network is made of, the frozen ones too."""
    return sum(p.numel() for p in network.parameters())


def _tensors(data: Any, model: nn.Module) -> tuple[Tensor, Tensor]:
    data, form = open_data(data), Form.of(model)
    if not isinstance(data, (tuple, list)):
        xs, ys = read_pairs(data, range(len(data)))
        check_data((xs, ys))
        data = (stack("X", xs), stack("y", ys))
    x, y = as_tensor("X", data[0]), as_tensor("y", data[1])
    x = x.to(form.of_x(x.is_floating_point()))
    check_finite(x)
    return x, y.to(form.of_y(y.is_floating_point()))


def check_fit(task: Task, model: nn.Module, x: Tensor, y: Tensor, labels: Tensor) -> None:
    """See that model, loss and labels fit each other, on a few rows (x, y); `labels` are all that there are, 1-d.

    Raises
    ------
    InputError
    """
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(x)
    except Exception as error:
        raise InputError(f"the model cannot take a batch of shape {tuple(x.shape)}: {first_line(error)}") from error
    if not isinstance(outputs, Tensor):
        raise InputError(f"the model returns a {type(outputs).__name__}: it must return one tensor")
    if len(outputs) != len(x):
        raise InputError(f"the model gives {len(outputs)} rows for {len(x)}: the first dimension must stay the batch")
    if task.loss is None or isinstance(task.loss, (nn.CrossEntropyLoss, nn.NLLLoss)):
        _check_labels(task, outputs, y, labels)
    try:
        loss = loss_of(task, y)(outputs, y)
    except Exception as error:
        raise InputError(
            f"loss cannot take outputs {tuple(outputs.shape)} and labels {tuple(y.shape)} {y.dtype}: "
            f"{first_line(error)}"
        ) from error
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise InputError(f"loss returns {what}: it must return one number as a tensor, the mean over the rows")


def _check_labels(task: Task, outputs: Tensor, y: Tensor, labels: Tensor) -> None:
    if y.is_floating_point():
        if task.loss is None and outputs.shape[1:] != y.shape[1:]:
            want = tuple(outputs.shape[1:])
            raise InputError(
                f"the model gives outputs of shape (rows, *{want}) and y is (rows, *{tuple(y.shape[1:])}): "
                "make them the same, e.g. y.reshape(-1, 1)"
            )
        return
    labels = labels[labels != getattr(task.loss, "ignore_index", IGNORED_LABEL)]
    if not len(labels):
        raise InputError("y has no label that counts: all are the one that the loss ignores")
    low, high = int(labels.min()), int(labels.max())
    if outputs.dim() < 2:
        raise InputError(f"the model gives outputs of shape {tuple(outputs.shape)}: classes need (rows, classes)")
    if low < 0:
        raise InputError(
            f"y has the label {low}: whole-number labels are classes and start at 0 (regression: use floats)"
        )
    if high >= outputs.shape[1]:
        raise InputError(
            f"the model gives {outputs.shape[1]} outputs and y has labels up to {high}: it needs {high + 1}"
        )
