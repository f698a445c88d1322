"""Structured pruning in the middle of a training: the hidden units that weigh least go, what is left trains on.

What a unit weighs is the length of all weights that go with it (Fang et al., "DepGraph: towards any structural
pruning", CVPR 2023: the L2 norm of a group); units are compared within their layer. Of the optimizer, what it remembers
of the weights that stay is kept. When units are pruned is not known here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..preparing.optimizers import treats_numbers_alone
from .finding import find_units
from .oracle import find_mixed
from .shrinking import sizes
from .units import Axis, Part, Units


class Pruner:
    """Knows the hidden units of one network, and how many of each layer are to stay.

    Parameters
    ----------
    model
        In the middle of whose training it will be asked.
    sample
        A batch (batch, ...) that it takes.
    parameters
        That are to be left, about.

    Raises
    ------
    InputError
        When the network cannot be cut, with the layer's name.
    """

    def __init__(self, model: nn.Module, sample: Tensor, parameters: int) -> None:
        self._units = find_units(model, sample)
        if not self._units.layers:
            raise InputError("the model has no hidden layer to prune: leave prune out")
        halves = [layer.size // 2 for layer in self._units.layers]
        first = [torch.arange(max(1, half)) for half in halves]
        rest = [torch.arange(half, layer.size) for half, layer in zip(halves, self._units.layers, strict=True)]
        if mixed := find_mixed(self._units, [first, rest], sample):
            raise InputError(f"it cannot be pruned: {mixed} alone would compute something else; leave prune out")
        self._sizes = sizes(self._units, parameters)

    def prune(self, optimizer: torch.optim.Optimizer) -> nn.Module:
        """A network with the heaviest units only, which the optimizer steps from now on.

        Raises
        ------
        InputError
            For an optimizer that may remember more of a weight than numbers in its shape.
        """
        if not treats_numbers_alone(optimizer):
            raise InputError(
                f"{type(optimizer).__name__} may remember more of a weight than can be pruned with it: use one of "
                "torch's that treat every number alone (SGD, Adam, AdamW, RMSprop, ...), or leave prune out"
            )
        units = self._units
        weighed = zip(weigh(units), self._sizes, strict=True)
        kept = [weights.topk(size).indices.sort().values for weights, size in weighed]
        narrow = units.narrow(kept)
        _hand_over(optimizer, dict(units.model.named_parameters()), dict(narrow.named_parameters()), units, kept)
        return narrow


@torch.no_grad()
def weigh(units: Units) -> list[Tensor]:
    """Of each layer, the squared length of all weights that go with a unit, shape (units,)."""
    weights = [torch.zeros(layer.size, dtype=torch.float64) for layer in units.layers]
    for name, parameter in units.model.named_parameters():
        for axis, along in units.axes.get(name, {}).items():
            others = [each for each in range(parameter.dim()) if each != axis]
            squares = parameter.abs().double().square()
            _add(weights, along, squares.sum(others) if others else squares)
    return weights


def _add(weights: list[Tensor], along: Axis, squares: Tensor) -> None:
    for number in along.layers:
        chosen = along.layer == number
        weights[number].index_add_(0, along.unit[chosen], squares[chosen])


def _hand_over(
    optimizer: torch.optim.Optimizer,
    before: Mapping[str, nn.Parameter],
    after: Mapping[str, nn.Parameter],
    units: Units,
    kept: Part,
) -> None:
    """Let an optimizer step the narrow network's parameters, remembering what it knew of them."""
    names = {id(parameter): name for name, parameter in before.items()}

    def cut(name: str, value: Any) -> Any:
        fits = isinstance(value, Tensor) and value.shape == before[name].shape
        return units.cut({name: value}, kept)[name] if fits else value

    state: dict[Tensor, Any] = defaultdict(dict)
    for parameter, known in optimizer.state.items():
        name = names[id(parameter)]
        state[after[name]] = {key: cut(name, value) for key, value in known.items()}
    for group in optimizer.param_groups:
        group["params"] = [after[names[id(parameter)]] for parameter in group["params"]]
    optimizer.state = state  # type: ignore[assignment]
