"""From a Task to tensors on a rank: training rows, held-out rows, a model that was seen to fit them, and how to score.

Everything about a task that can only be checked with torch is checked here, before the clock starts.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..data.holding import draw_held_out
from ..data.rows import Form
from ..data.values import as_tensor, check_finite, first_line, open_data, read_pairs, stack
from ..errors import InputError
from ..task import Task, check_data
from .examination.sizes import check_smallest, smallest_batch

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

    def check(self, network: nn.Module) -> None:
        """See that a network fits the loss and the labels (see `check_fit`)."""
        labels = torch.cat([self.y.flatten(), self.held_y.flatten()])
        check_fit(self.task, network, self.held_x[:4], self.held_y[:4], labels)

    def check_batches(self, rows: int, batch: int) -> None:
        """See that the network can train on the smallest batch of an epoch of so many rows."""
        smallest, network = smallest_batch(rows, batch), self.model(seed=0)
        check_smallest(network, self.loss_function, self.x[: smallest.rows], self.y[: smallest.rows], smallest)

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
            return Score(loss, _number(task.metric(outputs, y)), "metric" if name == "<lambda>" else name)
        if not y.is_floating_point():
            return Score(loss, float((outputs.argmax(1) == y).double().mean()), "accuracy")
        return Score(loss, loss, "loss")


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"metric returns {_described(value)}: it must return one number") from error


def _described(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


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
    prepared.check(probe)
    return prepared


def build_model(model: Any, seed: int) -> nn.Module:
    """A fresh copy of a module, or what a callable makes under `seed`.

    Raises
    ------
    InputError
        When a callable does not return a module, or the module has nothing to train.
    """
    if isinstance(model, nn.Module):
        built = copied("the model", model)
    else:
        torch.manual_seed(seed)
        built = model()
        if not isinstance(built, nn.Module):
            raise InputError(f"model() returned a {type(built).__name__}: it must return an nn.Module")
    if any(nn.parameter.is_lazy(p) for p in built.parameters()):
        raise InputError("the model has a lazy layer that has no size yet: run a batch through it, or write the size")
    if not any(p.requires_grad for p in built.parameters()):
        raise InputError("the model has no parameter to train")
    if any(p.is_floating_point() and p.isnan().any() for p in built.parameters()):
        raise InputError("the model has weights that are NaN before it was trained: give it finite ones")
    return built.train()


def copied(what: str, network: nn.Module) -> nn.Module:
    """A network of its own.

    Raises
    ------
    InputError
        When it has something that torch does not copy, named as `what`.
    """
    try:
        return copy.deepcopy(network)
    except Exception as error:
        why = first_line(error).partition(". ")[0]
        raise InputError(f"{what} cannot be copied ({why}): if it is pruned, end that by prune.remove") from error


def build_optimizer(optimizer: Any, parameters: list[Tensor]) -> torch.optim.Optimizer:
    """An optimizer over `parameters`, from a callable, a class, or a ready-made optimizer whose settings are taken.

    Raises
    ------
    InputError
        When a ready-made optimizer treats groups of parameters differently: its groups cannot be carried over. When it
        wants to compute the loss itself.
    """
    if optimizer is None:
        return torch.optim.Adam(parameters)
    if isinstance(optimizer, torch.optim.Optimizer):
        if len(optimizer.param_groups) > 1:
            raise InputError(
                "optimizer has several parameter groups: give a function instead, optimizer = lambda parameters: ..."
            )
        settings = {k: v for k, v in optimizer.param_groups[0].items() if k in optimizer.defaults}
        accepted = inspect.signature(type(optimizer)).parameters
        built = type(optimizer)(parameters, **{k: v for k, v in settings.items() if k in accepted})
        built.param_groups[0].update(settings)  # AdamW has one that its constructor does not take
    else:
        built = optimizer(parameters)
    if not isinstance(built, torch.optim.Optimizer):
        raise InputError(f"optimizer(parameters) returned a {type(built).__name__}: it must return a torch Optimizer")
    closure = inspect.signature(type(built).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        kind = type(built).__name__
        raise InputError(f"optimizer is {kind}, whose step wants a closure: give one that takes gradients, say Adam")
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
    given, training = x.clone(), model.training
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(given)
    except Exception as error:
        raise InputError(f"the model cannot take a batch of shape {tuple(x.shape)}: {first_line(error)}") from error
    finally:
        model.train(training)
    if not torch.equal(given, x):
        raise InputError("the model changes its inputs in place: let it work on a copy, x = x.clone()")
    if not isinstance(outputs, Tensor):
        raise InputError(f"the model returns a {type(outputs).__name__}: it must return one tensor")
    if len(outputs) != len(x):
        raise InputError(f"the model gives {len(outputs)} rows for {len(x)}: the first dimension must stay the batch")
    if task.loss is None or isinstance(task.loss, (nn.CrossEntropyLoss, nn.NLLLoss)):
        _check_labels(task, outputs, y, labels)
    if not outputs.is_floating_point():
        raise InputError(f"the model gives {outputs.dtype}: it must give floats, which a loss can be differentiated by")
    try:
        loss = loss_of(task, y)(outputs.detach().requires_grad_() + 0, y)
    except Exception as error:
        raise InputError(
            f"loss cannot take outputs {tuple(outputs.shape)} and labels {tuple(y.shape)} {y.dtype}: "
            f"{first_line(error)}"
        ) from error
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        raise InputError(
            f"loss returns {_described(loss)}: it must return one number as a tensor, the mean over the rows"
        )
    if not loss.requires_grad:
        raise InputError("loss cannot be differentiated: compute it from the outputs without detach() or no_grad()")


def _shape(rows: Tensor) -> str:
    return f"({', '.join(['rows', *map(str, rows.shape[1:])])}{',' * (rows.dim() == 1)})"


def _check_labels(task: Task, outputs: Tensor, y: Tensor, labels: Tensor) -> None:
    if y.is_floating_point():
        if task.loss is None and outputs.shape[1:] != y.shape[1:]:
            is_column = outputs.shape[1:] == (1,)
            raise InputError(
                f"the model gives outputs of shape {_shape(outputs)} and y is {_shape(y)}: make them the same, "
                + ("e.g. y.reshape(-1, 1)" if is_column else "or give whole numbers where y is classes")
            )
        return
    labels = labels[labels != getattr(task.loss, "ignore_index", IGNORED_LABEL)]
    if not len(labels):
        raise InputError("y has no label that counts: all are the one that the loss ignores")
    low, high = int(labels.min()), int(labels.max())
    if y.shape[1:] == (1,) and outputs.dim() == 2:
        raise InputError(f"y is {_shape(y)}: classes are one whole number per row, y.reshape(-1)")
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
