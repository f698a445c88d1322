"""What a loss divides by: what makes the losses of parts of a batch the loss of the whole.

L(batch) = Σ w_r L(part_r) / Σ w_r, with w_r = the rows of a part for a mean over rows, the sum of its labels' weights
for a loss that weighs them (class weights, ignored labels), and L = Σ L(part_r) for a sum. Of torch's own losses it is
known from their settings; of a loss of the user's own it is found by asking it, row by row, and by pairs: one that
counts its calls (an annealed weight) is asked as it is now, each time a copy.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from .hooks import HookPickler
from .scoring import IGNORED_LABEL, Loss, is_torchs_classes
from .seeds import is_generator

MEAN, SUM, WEIGHTED = "mean", "sum", "weighted"
MOST_LABELS = 256
"""Of a loss of the user's own: if there are more labels, it is asked for the weights of the lowest and the highest."""
MOST_ROWS = 16
"""That it is asked of."""
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Reduction:
    """How the losses of parts make that of the whole.

    Attributes
    ----------
    kind
        MEAN over the rows, SUM, or WEIGHTED.
    labels, weights
        Of WEIGHTED: labels (k,), ascending, and what each counts, (k,) float64.
    """

    kind: str
    labels: Tensor | None = None
    weights: Tensor | None = None

    def weight(self, y: Tensor) -> float:
        """What a part of a batch with these labels counts."""
        if self.kind != WEIGHTED:
            return float(len(y)) if self.kind == MEAN else 1.0
        assert self.labels is not None and self.weights is not None
        flat = y.flatten()
        place = torch.searchsorted(self.labels, flat).clamp(max=len(self.labels) - 1)
        return float((self.weights[place] * (self.labels[place] == flat)).sum())


def find_reduction(loss: Loss, outputs: Tensor, y: Tensor, labels: Tensor) -> Reduction:
    """What a loss of outputs (rows, ...) and y (rows, ...) divides by.

    Parameters
    ----------
    labels
        All labels that there are, 1-d, where they are whole numbers.

    Raises
    ------
    InputError
        When it mixes rows: it is neither a mean nor a sum over them.
    """
    known = _of_torchs(loss, y, labels)
    if known is not None:
        return known
    ask = _Asked(loss, outputs.detach()[:MOST_ROWS], y[:MOST_ROWS])
    found = _find(ask, labels) if ask.is_steady(0.0) else None
    if found is None:  # it mixes rows; or it counts its calls, and changes by them
        copies = _AsItIs(loss)
        if not copies.draws:
            ask.loss = copies
        if not ask.is_steady(TOLERANCE):
            raise InputError(
                "loss gives two values for the same outputs and labels, asked twice as it is now: let it draw nothing "
                "at random (it may count its calls, and change by them)"
            )
        found = _find(ask, labels)
    if found is None:
        raise InputError(_mixes(outputs, y))
    return found


def _find(ask: _Asked, labels: Tensor) -> Reduction | None:
    """None where it is neither a mean nor a sum."""
    y, first = ask.y, ask.whole()
    if len(ask.rows) < 2:
        return Reduction(MEAN)
    weights = None if y.is_floating_point() else _weights(ask, torch.unique(labels))
    found = weights or Reduction(MEAN)
    if not math.isfinite(first):  # the labels of these rows are all ignored, or it has no value: no rows to compare by
        return found
    singles = [ask.of([row]) for row in ask.rows]
    counts = [found.weight(ask.y[row : row + 1]) for row in ask.rows]
    mean = sum(w * value for w, value in zip(counts, singles, strict=True) if w) / (sum(counts) or 1)
    if _is_close(ask.whole(), mean):
        return found
    if _is_close(ask.whole(), sum(value for value in singles if math.isfinite(value))):
        return Reduction(SUM)
    return None


def _mixes(outputs: Tensor, y: Tensor) -> str:
    given = f"outputs of shape {_shape(outputs)} and y of {_shape(y)}"
    if outputs.shape != y.shape and outputs.numel() == y.numel():
        broadcast = tuple(torch.broadcast_shapes(outputs.shape, y.shape)) if _broadcasts(outputs, y) else ()
        how = f", which broadcast to {broadcast}" if broadcast else ""
        return f"loss compares every row with every other: {given}{how}; make them the same, e.g. y.reshape(-1, 1)"
    known = "" if y.is_floating_point() else "; for classes, nn.CrossEntropyLoss(weight=..., ignore_index=...) is one"
    return f"loss mixes the rows of a batch ({given}): it must be the mean, or the sum, of each row's own loss{known}"


def _shape(rows: Tensor) -> str:
    return str(tuple(rows.shape))


def _broadcasts(outputs: Tensor, y: Tensor) -> bool:
    try:
        torch.broadcast_shapes(outputs.shape, y.shape)
    except RuntimeError:
        return False
    return True


def _is_close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=1e-6)


def _of_torchs(loss: Loss, y: Tensor, labels: Tensor) -> Reduction | None:
    """From the settings of torch's own losses; None of another."""
    if loss in (functional.cross_entropy, functional.nll_loss):
        return None if y.is_floating_point() else _by_class(None, IGNORED_LABEL, labels)
    if isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) and is_torchs_classes(loss) and not y.is_floating_point():
        if loss.reduction == "sum":
            return Reduction(SUM)
        if loss.reduction == "mean":
            return _by_class(loss.weight, loss.ignore_index, labels)
    return None


def _by_class(weight: Tensor | None, ignored: int, labels: Tensor) -> Reduction:
    distinct = torch.unique(labels)
    if weight is None and not bool((distinct == ignored).any()):
        return Reduction(MEAN)
    counts = distinct != ignored
    weights = counts.double()
    if weight is not None:
        weights = weights * weight.detach().double()[torch.where(counts, distinct, 0).clamp(0, len(weight) - 1)]
    return Reduction(WEIGHTED, distinct, weights)


class _Asked:
    """A loss that is asked about some rows of one sample. Rows' outputs are made to differ, towards zero."""

    def __init__(self, loss: Loss, outputs: Tensor, y: Tensor) -> None:
        self.loss: Loss = loss
        self.y, self.rows = y, range(len(outputs))
        scale = torch.linspace(0.4, 1, len(outputs), dtype=outputs.dtype).view(-1, *[1] * (outputs.dim() - 1))
        self.outputs = outputs * scale
        try:  # in float64, so that weights are found to all their digits; a loss may hold some in float32
            loss(self.outputs.double(), y.double() if y.is_floating_point() else y)
        except Exception:  # noqa: BLE001 - then as they are
            return
        self.outputs, self.y = self.outputs.double(), y.double() if y.is_floating_point() else y

    def of(self, rows: list[int], y: Tensor | None = None) -> float:
        """Its value for these rows, and these labels in place of their own."""
        with torch.no_grad():
            return float(self.loss(self.outputs[rows], self.y[rows] if y is None else y))

    def whole(self) -> float:
        return self.of(list(self.rows))

    def is_steady(self, tolerance: float) -> bool:
        """Whether it says twice the same."""
        first, again = self.whole(), self.whole()
        return not math.isfinite(first) or math.isclose(first, again, rel_tol=tolerance, abs_tol=tolerance)


class _AsItIs(HookPickler):
    """A loss that is a new copy in each call: what it counts does not go on.

    Attributes
    ----------
    draws
        Whether it has a generator of its own, which would give the same in each copy.
    """

    def __init__(self, loss: Loss) -> None:
        stream = io.BytesIO()
        super().__init__(stream)
        self.draws = False
        self.dump(loss)
        self._bytes = stream.getvalue()

    def reducer_override(self, obj: Any) -> Any:
        self.draws |= is_generator(obj)
        return super().reducer_override(obj)

    def __call__(self, outputs: Tensor, y: Tensor) -> Tensor:
        return pickle.loads(self._bytes)(outputs, y)


def _weights(ask: _Asked, distinct: Tensor) -> Reduction | None:
    """The weight of every label beside that of the first that counts, by pairs of rows; None where all count alike.

    Of two rows, L = (l₁ + r l₂) / (1 + r), so r = (L − l₁) / (l₂ − L). A label that alone gives nothing, and changes
    nothing beside another, is ignored.
    """
    half = MOST_LABELS // 2
    asked = distinct if len(distinct) <= MOST_LABELS else torch.cat([distinct[:half], distinct[-half:]])

    def labelled(*labels: int) -> Tensor:
        return torch.stack([torch.full_like(ask.y[0], label) for label in labels])

    values = asked.tolist()
    try:
        alone = {label: ask.of([0], labelled(label)) for label in values}
        first = next((label for label in values if math.isfinite(alone[label])), None)
        if first is None:
            return None
        weights = [_ratio(ask, labelled, first, label) for label in values]
    except Exception:  # noqa: BLE001 - a loss that cannot take a label here will be asked about real rows below
        return None
    if any(weight is None for weight in weights) or all(_is_close(w, 1.0) for w in weights if w is not None):
        return None
    known = [round(w) if _is_close(w, round(w)) else w for w in weights if w is not None]
    if len(asked) == len(distinct):
        return Reduction(WEIGHTED, distinct, torch.tensor(known, dtype=torch.float64))
    if not {*known} <= {0, 1}:  # weights of its own for every label: those in between are not known
        return None
    ignored = torch.tensor([label for label, weight in zip(values, known, strict=True) if not weight])
    return Reduction(WEIGHTED, distinct, (~torch.isin(distinct, ignored)).double())


def _ratio(ask: _Asked, labelled: Callable[..., Tensor], first: int, label: int) -> float | None:
    """What a label counts beside the first; None where that cannot be told."""
    if label == first:
        return 1.0
    last = len(ask.rows) - 1
    one, other = ask.of([0], labelled(first)), ask.of([last], labelled(label))
    both = ask.of([0, last], labelled(first, label))
    if not math.isfinite(other) or (other == 0 and _is_close(both, one) and not _is_close(both, one / 2)):
        return 0.0 if _is_close(both, one) else None
    if _is_close(both, one + other):  # a sum
        return 1.0
    if abs(other - both) < 1e-9:
        return None
    return (both - one) / (other - both)
