"""From a Task to tensors on a rank: training rows, held-out rows, a model that was seen to fit them, and how to score.

Everything about a task that can only be checked with torch is checked here, before the clock starts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from ..task import Task, check_data

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
        if self.task.loss is not None:
            return self.task.loss
        return functional.cross_entropy if self.is_classification else functional.mse_loss

    def outputs(self, network: nn.Module) -> Tensor:
        """The network's outputs on the held-out rows, in evaluation mode; the mode it was in comes back."""
        training = network.training
        network.eval()
        try:
            with torch.no_grad():
                return network(self.held_x)
        finally:
            network.train(training)

    def score(self, outputs: Tensor) -> Score:
        """Loss and metric of outputs on the held-out rows."""
        with torch.no_grad():
            loss = float(self.loss(outputs, self.held_y))
            if self.task.metric is not None:
                name = getattr(self.task.metric, "__name__", type(self.task.metric).__name__)
                return Score(loss, float(self.task.metric(outputs, self.held_y)), name)
            if self.is_classification:
                return Score(loss, float((outputs.argmax(1) == self.held_y).double().mean()), "accuracy")
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
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(task.seed))
    held = min(len(x) - 1, max(1, round(task.held_out * len(x))))
    held_rows, rows = order[:held], order[held:]
    prepared = Prepared(task, x[rows], y[rows], x[held_rows], y[held_rows])
    _check_fit(prepared, probe)
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
    if callable(data) and not hasattr(data, "__getitem__"):
        data = data()
        check_data(data)
    if not isinstance(data, (tuple, list)):
        items = [data[i] for i in range(len(data))]
        for item in items:
            if not isinstance(item, (tuple, list)) or len(item) != 2:
                raise InputError(f"the Dataset gives a {type(item).__name__} for a row: it must give (x, label)")
        check_data(([pair[0] for pair in items], [pair[1] for pair in items]))
        data = (_stack("X", [pair[0] for pair in items]), _stack("y", [pair[1] for pair in items]))
    x, y = _as_tensor("X", data[0]), _as_tensor("y", data[1])
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    takes_integers = any(isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for m in model.modules())
    if takes_integers and not x.is_floating_point():
        x = x.long()
    else:
        x = x.to(dtype)
        bad = int((~torch.isfinite(x)).sum())
        if bad:
            raise InputError(f"X has {bad} values that are not finite: clean or fill them first")
    y = y.to(dtype) if y.is_floating_point() else y.long()
    return x, y


def _stack(name: str, parts: list[Any]) -> Tensor:
    try:
        return torch.stack([torch.as_tensor(part) for part in parts])
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"the {name} of the Dataset's rows cannot be stacked: {_first_line(error)}") from None


def _as_tensor(name: str, part: Any) -> Tensor:
    if isinstance(part, Tensor):
        return part.detach().cpu()
    try:
        array = np.asarray(part)
    except ValueError:
        raise InputError(f"the rows of {name} have different lengths: pad them to one") from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} holds {array.dtype} values: give numbers (labels as whole numbers from 0)")
    # A copy, so that a read-only or oddly ordered array is fine and the user's own is never written to.
    return torch.from_numpy(np.array(array, order="C"))


def _check_fit(prepared: Prepared, model: nn.Module) -> None:
    x, y = prepared.held_x[:4], prepared.held_y[:4]
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(x)
    except Exception as error:
        raise InputError(f"the model cannot take a batch of shape {tuple(x.shape)}: {_first_line(error)}") from error
    if not isinstance(outputs, Tensor):
        raise InputError(f"the model returns a {type(outputs).__name__}: it must return one tensor")
    if len(outputs) != len(x):
        raise InputError(f"the model gives {len(outputs)} rows for {len(x)}: the first dimension must stay the batch")
    if prepared.task.loss is None or isinstance(prepared.task.loss, (nn.CrossEntropyLoss, nn.NLLLoss)):
        _check_labels(prepared, outputs)
    try:
        loss = prepared.loss(outputs, y)
    except Exception as error:
        raise InputError(
            f"loss cannot take outputs {tuple(outputs.shape)} and labels {tuple(y.shape)} {y.dtype}: "
            f"{_first_line(error)}"
        ) from error
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise InputError(f"loss returns {what}: it must return one number as a tensor, the mean over the rows")


def _check_labels(prepared: Prepared, outputs: Tensor) -> None:
    if not prepared.is_classification:
        if prepared.task.loss is None and outputs.shape[1:] != prepared.y.shape[1:]:
            want = tuple(outputs.shape[1:])
            raise InputError(
                f"the model gives outputs of shape (rows, *{want}) and y is (rows, *{tuple(prepared.y.shape[1:])}): "
                "make them the same, e.g. y.reshape(-1, 1)"
            )
        return
    labels = torch.cat([prepared.y.flatten(), prepared.held_y.flatten()])
    labels = labels[labels != getattr(prepared.task.loss, "ignore_index", IGNORED_LABEL)]
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


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"
