"""One smaller network of a given number of parameters: what N sub-networks of that size are compared with.

Which of a layer's units it keeps does not matter, as all of it is initialised afresh. How it is trained is not known
here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..preparing.building import build_model
from ..task import Task
from .finding import find_units
from .narrowing import initialise
from .units import Units

BISECTIONS = 14
"""Of the share of units that a network of a given size has."""


def shrink(task: Task, sample: Tensor, parameters: int, seed: int) -> nn.Module:
    """The task's network with every hidden layer narrowed alike, to about so many parameters, freshly initialised.

    Raises
    ------
    InputError
        When the network cannot be cut.
    """
    units = find_units(build_model(task.model, seed), sample)
    narrow = units.narrow([torch.arange(size) for size in sizes(units, parameters)])
    torch.manual_seed(seed)
    return initialise(narrow).train()


def sizes(units: Units, parameters: int) -> list[int]:
    """How many units of each layer, in the same proportion, make a network of about so many parameters."""
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        count = units.count([torch.arange(size) for size in _of_share(units, middle)])
        low, high = (middle, high) if count <= parameters else (low, middle)
    return _of_share(units, 1.0 if low > 1 - 2.0 ** (1 - BISECTIONS) else low)


def _of_share(units: Units, share: float) -> list[int]:
    return [max(1, round(share * layer.size)) for layer in units.layers]
