"""Do network, loss and labels fit each other: in evaluation and in training mode, on many rows and on few?"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...data.values import first_line
from ...errors import InputError
from ...task import Task
from ..modes import evaluating
from ..scoring import IGNORED_LABEL, Loss, described, is_torchs_classes


def see_outputs(network: nn.Module, x: Tensor) -> Tensor:
    """What a network gives for rows x (rows, ...), in evaluation mode and of the same shape in training mode.

    Raises
    ------
    InputError
        When it cannot take them, changes them, or gives something else than a row of floats for each.
    """
    with evaluating(network), torch.no_grad():
        outputs = _ask(network, x, "")
    trained = _ask(network, x, "in training mode, ")
    if trained.shape != outputs.shape:
        raise InputError(
            f"the model gives outputs of shape {tuple(trained.shape)} in training mode and {tuple(outputs.shape)} in "
            "evaluation mode: make them the same"
        )
    return trained


def _ask(network: nn.Module, x: Tensor, mode: str) -> Tensor:
    given = x.clone()
    try:
        outputs = network(given)
    except Exception as error:
        raise InputError(
            f"{mode}the model cannot take a batch of shape {tuple(x.shape)}: {first_line(error)}"
        ) from error
    if not torch.equal(given.nan_to_num(), x.nan_to_num()):
        raise InputError("the model changes its inputs in place: let it work on a copy, x = x.clone()")
    if not isinstance(outputs, Tensor):
        raise InputError(f"{mode}the model returns a {type(outputs).__name__}: it must return one tensor")
    if outputs.dim() == 0 or len(outputs) != len(x):
        found = len(outputs) if outputs.dim() else "no"
        raise InputError(f"the model gives {found} rows for {len(x)}: the first dimension must stay the batch")
    if not outputs.is_floating_point():
        raise InputError(f"the model gives {outputs.dtype}: it must give floats, which a loss can be differentiated by")
    return outputs


def see_labels(task: Task, outputs: Tensor, y: Tensor, labels: Tensor) -> None:
    """See that labels are classes that the outputs have, where torch's own loss reads them so.

    Parameters
    ----------
    labels
        All that there are, 1-d.
    """
    if task.loss is not None and not is_torchs_classes(task.loss):
        return
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


def see_loss(loss: Loss, outputs: Tensor, y: Tensor) -> None:
    """See that a loss takes outputs and labels, and gives one number that can be differentiated.

    Raises
    ------
    InputError
    """
    try:
        value = loss(outputs.detach().requires_grad_() + 0, y)
    except Exception as error:
        if "differentiated Tensor" in str(error):
            raise InputError(
                "loss asks for a derivative by something that the outputs do not come from: it is given outputs and "
                "labels only, no inputs; let the model's forward compute it, within torch.enable_grad(), and return it "
                "beside the outputs"
            ) from error
        raise InputError(
            f"loss cannot take outputs {tuple(outputs.shape)} and labels {tuple(y.shape)} {y.dtype}: "
            f"{first_line(error)}"
        ) from error
    if not isinstance(value, Tensor) or value.dim() != 0:
        raise InputError(
            f"loss returns {described(value)}: it must return one number as a tensor, the mean over the rows"
        )
    if not value.requires_grad:
        raise InputError("loss cannot be differentiated: compute it from the outputs without detach() or no_grad()")


def _shape(rows: Tensor) -> str:
    return f"({', '.join(['rows', *map(str, rows.shape[1:])])}{',' * (rows.dim() == 1)})"
