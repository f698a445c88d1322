"""What is looked at before the clock starts, on a copy, alike for every way: a file for each question."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ...task import Task
from ..arithmetic import as_given
from ..building import copied, on_trial, packed
from ..reduction import MEAN, Reduction, find_reduction
from ..scoring import NOTHING, Meaning, loss_of, read_meaning
from .alone import see_alone
from .fit import see_labels, see_loss, see_outputs
from .learning import Learned, findings, see_learning, shapes_of
from .sizes import Smallest, check_smallest


@dataclass(frozen=True)
class Examined:
    """What was found.

    Attributes
    ----------
    meaning
        How outputs are read.
    reduction
        What the loss divides by.
    learned
        What a step did.
    findings
        What a reader should know, a line each.
    """

    meaning: Meaning
    reduction: Reduction
    learned: Learned
    findings: tuple[str, ...]

    @classmethod
    def nothing(cls, said: Sequence[str] = ()) -> Examined:
        """Before the network was looked at; what is to be said already."""
        return cls(Meaning(NOTHING), Reduction(MEAN), Learned(), tuple(said))


@as_given()
def examine(
    task: Task, network: nn.Module, x: Tensor, y: Tensor, labels: Tensor, smallest: Smallest, *, what: str = "the model"
) -> Examined:
    """Ask all questions, of a copy of a network that is to be trained; what draws at random goes on as if none was.

    Parameters
    ----------
    x, y
        A batch of the rows that it will be trained on, of as many as it will get.
    labels
        All labels that there are, 1-d, where they are whole numbers.
    smallest
        The fewest rows that it will get at once.
    what
        What to call the network.

    Raises
    ------
    InputError
        One line that names what does not fit.
    """
    copy, task = copied(what, network), on_trial(task)
    loss, shapes = loss_of(task, y), shapes_of(copy)
    with undisturbed(), torch.enable_grad():
        before = _others()
        outputs = see_outputs(copy, x).detach()
        draws = before != _others()
        see_labels(task, outputs, y, labels)
        see_loss(loss, outputs, y)
        see_alone(loss, outputs, y)
        meaning = read_meaning(loss, outputs, y, labels)
        reduction = find_reduction(loss, outputs, y, labels)
        learned = see_learning(task, copy, loss, x, y, shapes)
        packed(what, copy)  # what a step leaves in it may be no data
        check_smallest(network, loss, x, y, smallest)
    lines = findings(learned)
    if draws:
        lines.append("the model draws from numpy's or Python's generator: seeded, but not alike in every way")
    return Examined(meaning, reduction, learned, tuple(lines))


def _others() -> tuple[object, ...]:
    """The state of generators that are not torch's."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return (random.getstate(), name, bytes(keys), *rest)  # type: ignore[arg-type]


@contextmanager
def undisturbed() -> Iterator[None]:
    """While it lasts, generators may be drawn from: they are put back, torch's, numpy's and Python's."""
    theirs, own = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        yield
    np.random.set_state(theirs)
    random.setstate(own)
