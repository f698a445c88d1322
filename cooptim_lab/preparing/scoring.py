"""What a network's outputs mean, and how good they are: found from outputs, labels and the loss, assumed nowhere.

Whole-number labels do not make a classification: a loss may count (Poisson), read one column of logits, or classes
along another axis than the second. What is taken for an accuracy is tried on the loss itself: outputs that say the
right class must cost less than outputs that say a wrong one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from ..task import Task

Loss = Callable[[Tensor, Tensor], Tensor]
IGNORED_LABEL = -100
"""The label that torch's cross-entropy leaves out unless told otherwise."""
CLASSES, SIGN, HALF, NOTHING = "classes", "sign", "half", "nothing"
SURE = 10.0
"""A logit that says a class."""


@dataclass(frozen=True)
class Score:
    """What a network reaches on the held-out rows."""

    loss: float
    metric: float
    metric_name: str


@dataclass(frozen=True)
class Meaning:
    """How outputs are read.

    Attributes
    ----------
    kind
        CLASSES: the largest along `axis` is the class. SIGN, HALF: one column, whose label is 1 above 0, above 1/2.
        NOTHING: there are no classes in it, and the loss is the score.
    ignored
        Labels that the loss leaves out.
    """

    kind: str
    axis: int = 1
    ignored: tuple[int, ...] = ()

    def predicted(self, outputs: Tensor) -> Tensor:
        """The labels that outputs say, int64: without `axis`, or shaped as the outputs."""
        if self.kind == CLASSES:
            return outputs.argmax(self.axis)
        return (outputs > (0 if self.kind == SIGN else 0.5)).long()

    def right(self, outputs: Tensor, y: Tensor) -> tuple[int, int]:
        """How many labels outputs say rightly, and of how many that count."""
        said = self.predicted(outputs).reshape(y.shape)
        counts = torch.ones_like(y, dtype=torch.bool)
        for label in self.ignored:
            counts &= y != label
        return int(((said == y) & counts).sum()), int(counts.sum())


def read_meaning(loss: Loss, outputs: Tensor, y: Tensor, labels: Tensor) -> Meaning:
    """What outputs (rows, ...) beside y (rows, ...) mean to a loss.

    Parameters
    ----------
    labels
        All labels that there are, 1-d, where they are whole numbers.
    """
    if y.is_floating_point():
        return Meaning(NOTHING)
    ignored = ignored_labels(loss, outputs, y, labels)
    counted = labels[~torch.isin(labels, torch.tensor(ignored, dtype=labels.dtype))] if ignored else labels
    if is_torchs_classes(loss):
        return Meaning(CLASSES, 1, ignored)
    if not len(counted) or int(counted.min()) < 0:
        return Meaning(NOTHING)
    if outputs.numel() == y.numel() and outputs.shape[:1] == y.shape[:1]:
        return Meaning(_read_column(loss, outputs, y) if int(counted.max()) <= 1 else NOTHING, ignored=ignored)
    axes = [a for a in range(1, outputs.dim()) if outputs.shape[:a] + outputs.shape[a + 1 :] == y.shape]
    gains = {axis: _gain(loss, outputs, y, axis) for axis in axes if 2 <= outputs.shape[axis] > int(counted.max())}
    best = max(gains, key=lambda axis: gains[axis], default=0)
    return Meaning(CLASSES, best, ignored) if best and gains[best] > 0 else Meaning(NOTHING, ignored=ignored)


def is_torchs_classes(loss: Loss) -> bool:
    """Whether it is torch's own loss of classes, whose reading of outputs is known."""
    return loss is functional.cross_entropy or loss is functional.nll_loss or (
        type(loss) in (nn.CrossEntropyLoss, nn.NLLLoss)
    )  # fmt: skip


def ignored_labels(loss: Loss, outputs: Tensor, y: Tensor, labels: Tensor) -> tuple[int, ...]:
    """Labels on which a loss does not depend: what it says it ignores, and which negative ones are seen to be."""
    if is_torchs_classes(loss):
        return (getattr(loss, "ignore_index", IGNORED_LABEL),)
    named = getattr(loss, "ignore_index", None)
    tried = [label for label in torch.unique(labels).tolist() if label < 0 or label == named]
    return tuple(label for label in tried if _is_ignored(loss, outputs, torch.full_like(y, label)))


def _is_ignored(loss: Loss, outputs: Tensor, y: Tensor) -> bool:
    outputs = outputs.detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            value = loss(outputs, y)
            (gradient,) = torch.autograd.grad(value, outputs, allow_unused=True)
    except Exception:  # noqa: BLE001 - a loss that cannot take a label does not ignore it
        return False
    return gradient is None or not bool(gradient.nan_to_num(0.0).any())


def _tried(loss: Loss, outputs: Tensor, y: Tensor) -> float:
    """What a loss says; NaN where it cannot be asked."""
    try:
        with torch.no_grad():
            return float(loss(outputs, y))
    except Exception:  # noqa: BLE001 - a loss may refuse outputs that no network gave it
        return math.nan


def _gain(loss: Loss, outputs: Tensor, y: Tensor, axis: int) -> float:
    """By how much outputs that say the labels along an axis are better than outputs that say others."""
    classes = outputs.shape[axis]
    known = y.clamp(0, classes - 1)

    def saying(labels: Tensor) -> Tensor:
        return torch.zeros_like(outputs).scatter(axis, labels.unsqueeze(axis), SURE)

    right, wrong = (_tried(loss, saying(labels), y) for labels in (known, (known + 1) % classes))
    return wrong - right if math.isfinite(right) and not math.isnan(wrong) else 0.0


def _read_column(loss: Loss, outputs: Tensor, y: Tensor) -> str:
    """Of one column for labels 0 and 1: logits get better without end, probabilities from 0 to 1."""

    def costs(*values: float) -> list[list[float]]:
        """Of each value, where the label is 1; of its mirror image, where it is 0."""
        ones = [_tried(loss, torch.full_like(outputs, value), torch.ones_like(y)) for value in values]
        mirrored = [-value if min(values) < 0 else 1 - value for value in values]
        zeros = [_tried(loss, torch.full_like(outputs, value), torch.zeros_like(y)) for value in mirrored]
        return [ones, zeros]

    if all(far <= near < wrong <= worst for far, near, wrong, worst in costs(2 * SURE, 1.0, -1.0, -2 * SURE)):
        return SIGN
    if all(right < middle < wrong for right, middle, wrong in costs(0.99, 0.5, 0.01)):
        return HALF
    return NOTHING


def loss_of(task: Task, y: Tensor) -> Loss:
    """The task's loss, or the default for such labels."""
    if task.loss is not None:
        return task.loss
    return functional.mse_loss if y.is_floating_point() else functional.cross_entropy


def score(task: Task, meaning: Meaning, outputs: Tensor, y: Tensor) -> Score:
    """Loss and metric of outputs (rows, ...) on labels (rows, ...)."""
    with torch.no_grad():
        loss = float(loss_of(task, y)(outputs, y))
        if task.metric is not None:
            return Score(loss, number_of(task.metric(outputs, y)), metric_name(task))
        right, counted = meaning.right(outputs, y) if meaning.kind != NOTHING else (0, 0)
        return Score(loss, right / counted, "accuracy") if counted else Score(loss, loss, "loss")


def join_scores(scores: Sequence[tuple[float, float, Score]], *, is_sum: bool = False) -> Score:
    """One of parts: (what its loss counts, what its metric counts, its score); `is_sum`: the loss is one over rows."""
    weight, counted = sum(w for w, _, _ in scores), sum(n for _, n, _ in scores)
    loss = sum(w * one.loss for w, _, one in scores if w) / (1 if is_sum else weight)
    name = next((one.metric_name for _, n, one in scores if n and one.metric_name != "loss"), "loss")
    if name == "loss":
        return Score(loss, loss, name)
    return Score(loss, sum(n * one.metric for _, n, one in scores if n) / counted, name)


def metric_name(task: Task) -> str:
    """Of a metric of the user's own, for tables."""
    name = getattr(task.metric, "__name__", type(task.metric).__name__)
    return "metric" if name == "<lambda>" else name


def number_of(value: Any) -> float:
    """What a metric returned.

    Raises
    ------
    InputError
    """
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"metric returns {described(value)}: it must return one number") from error


def described(value: Any) -> str:
    """For messages: what kind of thing it is."""
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
