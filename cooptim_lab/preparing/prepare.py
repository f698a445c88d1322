"""From a Task to tensors on a rank: training rows, held-out rows, a network that was seen to fit them.

Everything about a task that can only be checked with torch is checked here, before the clock starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..data.forms import find_form
from ..data.holding import draw_held_out
from ..data.values import as_tensor, check_finite, open_data, read_items
from ..task import Task
from .arithmetic import as_given
from .building import build_model, build_optimizer, copied, on_trial
from .examination import Examined, examine
from .examination.fit import see_outputs
from .examination.sizes import smallest_batch
from .modes import evaluating
from .scoring import CLASSES, Loss, Score, loss_of, score
from .seeds import seed_all

BATCH = 64
"""Rows of a step, where nobody says."""


@dataclass(frozen=True)
class Prepared:
    """A task as tensors. X is (rows, ...) in the model's dtype, y is int64 for classes, else the model's dtype."""

    task: Task
    x: Tensor
    y: Tensor
    held_x: Tensor
    held_y: Tensor
    examined: Examined
    findings: tuple[str, ...] = ()
    """What a reader should know of task and data, a line each."""

    @property
    def is_classification(self) -> bool:
        """Whether outputs say classes, along their second axis."""
        return self.examined.meaning.kind == CLASSES and self.examined.meaning.axis == 1

    def for_trial(self) -> Prepared:
        """The same with functions of its own (see `on_trial`), for steps that do not count."""
        return replace(self, task=on_trial(self.task))

    def model(self, seed: int) -> nn.Module:
        """The network before training (see `Task.model` for what the seed decides)."""
        return build_model(self.task.model, seed)

    def optimizer(self, parameters: Iterable[Tensor], names: Sequence[str] = ()) -> torch.optim.Optimizer:
        """The task's optimizer over `parameters`."""
        return build_optimizer(self.task, list(parameters), names)

    @property
    def loss_function(self) -> Loss:
        """The task's loss, a scalar: the mean over the rows."""
        return loss_of(self.task, self.y)

    def outputs(self, network: nn.Module, optimizer: Any = None) -> Tensor:
        """The network's outputs on the held-out rows, in evaluation mode; the modes it was in come back."""
        with evaluating(network, optimizer), torch.no_grad():
            return network(self.held_x.clone())  # a network may work in place

    def score(self, outputs: Tensor) -> Score:
        """Loss and metric of outputs on the held-out rows."""
        return score(on_trial(self.task, ("loss",)), self.examined.meaning, outputs, self.held_y)

    def check(self, network: nn.Module, what: str, batch: int, parts: int = 1) -> Examined:
        """Examine a network of the task's own that is trained in place of the model (see `prepare`)."""
        return _examine(self.task, network, self.x, self.y, self.held_x, self.held_y, batch, parts, what)


_kept: list[dict[tuple[int, ...], Prepared]] = []


@contextmanager
def kept() -> Iterator[None]:
    """While it lasts, a task is prepared once for each size of batch, and not for each training of it.

    For trainings of one task in turn, which differ in optimizers, seeds, and copies of the task's functions.
    """
    _kept.append({})
    try:
        yield
    finally:
        _kept.pop()


def prepare(task: Task, batch: int = BATCH, parts: int = 1) -> Prepared:
    """Make tensors of a task's data, hold some out, and see that model, loss and labels fit each other.

    Parameters
    ----------
    batch
        Rows of a step.
    parts
        Among how many networks the rows are divided, where each is trained on its own.

    Raises
    ------
    InputError
        One line that names what does not fit.
    """
    if not _kept:
        return _prepare(task, batch, parts)
    key = (id(task.data), id(task.model), batch, parts)
    if key not in _kept[-1]:
        _kept[-1][key] = _prepare(task, batch, parts)
    return replace(_kept[-1][key], task=task)


@as_given()
def _prepare(task: Task, batch: int, parts: int) -> Prepared:
    probe = build_model(task.model, seed=0)
    seed_all(task.seed)
    data, said = open_data(task.data), list[str]()
    if not isinstance(data, (tuple, list)):
        data, said = read_items(data)
    x, y = as_tensor("X", data[0]), as_tensor("y", data[1])
    form = find_form(probe, x[:2])
    x = x.to(form.of_x(x.is_floating_point()))
    y = y.to(form.of_y(y.is_floating_point()))
    check_finite(x, y, task.loss)
    rows, held = draw_held_out(len(x), task.held_out, task.seed)
    parted = (x[rows], y[rows], x[held], y[held])
    examined = _examine(task, build_model(task.model, seed=0), *parted, batch, parts, "the model")
    return Prepared(task, *parted, examined, (*said, *examined.findings))


def _examine(
    task: Task, network: nn.Module, x: Tensor, y: Tensor, held_x: Tensor, held_y: Tensor, batch: int, parts: int,
    what: str,
) -> Examined:  # fmt: skip
    rows = -(-len(x) // parts)
    labels = torch.cat([y.flatten(), held_y.flatten()]).unique()
    see_outputs(copied(what, network), held_x[:4])
    size = min(batch, rows)
    return examine(task, network, x[:size], y[:size], labels, smallest_batch(rows, batch), what=what)
