"""The hidden units of a network: dealt among parts, cut out of its tensors, joined again.

A hidden unit is a channel, a feature or a head that only the network's inside sees. Units that are added to each other
(a residual sum), normalised together or flattened into the same product are one *layer of units*, cut as one.

How units are found is not known here (`finding`), nor what the parts are for.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..training.cutting import shard
from .narrowing import narrowed
from .states import State, mean_of, state_of

OFFER = "define subnet(i) in the task"
NORMS_OVER_UNITS = (nn.LayerNorm, nn.RMSNorm)
"""They normalise over all units of a layer together, so a part alone computes something else."""

Part = Sequence[Tensor]
"""The units of each layer, by its number, that one subnet has."""


@dataclass(frozen=True)
class Layer:
    """Units that are cut as one.

    Attributes
    ----------
    name
        Of a module that makes them.
    size
        How many parts they can be dealt in at the most: units, or whole heads where attention divides them.
    what
        units or heads.
    """

    name: str
    size: int
    what: str


@dataclass
class Axis:
    """To which layer and unit every index along one axis of a tensor belongs; -1: to none, so every part has it."""

    layer: Tensor
    unit: Tensor

    @classmethod
    def of_none(cls, length: int) -> Axis:
        return cls(torch.full((length,), -1), torch.full((length,), -1))

    def mark(self, indices: Tensor, layer: int, units: Tensor) -> None:
        """Let these indices belong to units of a layer, one each."""
        self.layer[indices], self.unit[indices] = layer, units

    def kept(self, part: Part) -> Tensor:
        """The indices that a part has, ascending."""
        keeps = self.layer < 0
        for number in self.layers:
            has = torch.zeros(max(int(self.unit.max()), int(part[number].max())) + 1, dtype=torch.bool)
            has[part[number]] = True
            keeps = keeps | ((self.layer == number) & has[self.unit])
        return keeps.nonzero().flatten()

    @cached_property
    def layers(self) -> list[int]:
        """The numbers of the layers whose units lie along it; known once all are marked."""
        return [number for number in self.layer.unique().tolist() if number >= 0]

    @cached_property
    def is_of_units_only(self) -> bool:
        """Whether every index belongs to a unit, and so to one part alone."""
        return bool((self.layer >= 0).all())


@dataclass
class Units:
    """The hidden units of a network.

    Attributes
    ----------
    layers
        What can be cut.
    axes : dict[str, dict[int, Axis]]
        By the name of a parameter or buffer, by axis.
    widths : dict[str, Axis]
        By the name of a module whose width is a setting also where it has no parameter.
    takers
        Weights that take hidden units as inputs.
    summed
        Weights (out, in, ...) that sum over their inputs, hidden units or not.
    """

    model: nn.Module
    layers: list[Layer] = field(default_factory=list)
    axes: dict[str, dict[int, Axis]] = field(default_factory=dict)
    widths: dict[str, Axis] = field(default_factory=dict)
    takers: set[str] = field(default_factory=set)
    summed: set[str] = field(default_factory=set)
    _chosen: dict[tuple[int, str], tuple[Part, tuple[Tensor, ...]]] = field(default_factory=dict, repr=False)
    """What `_index` found since the last deal; the part is kept, so that no other can have its id."""

    @cached_property
    def mixes_units(self) -> bool:
        """Whether a part of it computes something else alone than inside the whole."""
        return any(isinstance(module, NORMS_OVER_UNITS) for module in self.model.modules())

    def deal(self, parts: int, generator: torch.Generator | None = None) -> list[list[Tensor]]:
        """Partition the units of every layer into parts, as evenly as it goes; shuffled if a generator is given.

        The first (size mod parts) parts have one unit more.

        Raises
        ------
        InputError
            When a layer has fewer units than there are parts, or there is no hidden layer.
        """
        if not self.layers and parts > 1:
            raise InputError(f"the model has no hidden layer to split: {OFFER}")
        dealt: list[list[Tensor]] = [[] for _ in range(parts)]
        self._chosen.clear()
        for layer in self.layers:
            if parts > layer.size:
                raise InputError(
                    f"subnets = {parts}: layer {layer.name} has {layer.size} {layer.what}; give at most {layer.size}"
                )
            order = torch.arange(layer.size) if generator is None else torch.randperm(layer.size, generator=generator)
            for i, part in enumerate(dealt):
                own = shard(layer.size, parts, i)
                part.append(order[own.start : own.stop].sort().values)
        return dealt

    @torch.no_grad()
    def narrow(self, part: Part) -> nn.Module:
        """A copy of the network that has only these units."""
        own = {name: value for name, value in state_of(self.model).items() if name in self.axes}
        widths = {name: len(axis.kept(part)) for name, axis in self.widths.items()}
        return narrowed(self.model, self.cut(own, part), widths)

    def count(self, part: Part) -> int:
        """Of how many numbers the parameters of a network with only these units would be made."""
        total = 0
        for name, parameter in self.model.named_parameters():
            axes = self.axes.get(name, {})
            sides = (len(axes[axis].kept(part)) if axis in axes else n for axis, n in enumerate(parameter.shape))
            total += math.prod(sides)
        return total

    def factors(self, part: Part) -> dict[str, Tensor]:
        """How many times the inputs that a part has are to count (see `scaled`): of weights that sum over units, (in,).

        (size of the layer) / (units of it that the part has), 1 of what is no hidden unit; weights of ones only are
        left out.
        """
        each = [layer.size / len(own) for layer, own in zip(self.layers, part, strict=True)]
        of_layers = torch.tensor([*each, 1.0], dtype=torch.float64)
        found = {}
        for name in sorted(self.summed):
            axis = self.axes.get(name, {}).get(1)
            if axis is not None:
                found[name] = of_layers[axis.layer[axis.kept(part)]]  # -1 is the last
        return {name: factor for name, factor in found.items() if bool((factor != 1).any())}

    def fewest(self, part: Part) -> tuple[str, int]:
        """Of all sums over a part's units the shortest: whose weight, and over how many numbers."""
        found = []
        for name in sorted(self.summed):
            axis = self.axes.get(name, {}).get(1)
            if axis is not None:
                kept, shape = axis.kept(part), self.model.get_parameter(name).shape
                found.append((int((axis.layer[kept] >= 0).sum()) * shape[2:].numel(), name))
        count, name = min(found, default=(sys.maxsize, ""))
        return name, count

    def cut(self, state: State, part: Part) -> dict[str, Tensor]:
        """Of tensors shaped as the network's (its own, or an optimizer's), what a part has: copies."""
        cut = {}
        for name, value in state.items():
            axes = self.axes.get(name, {})
            cut[name] = value[self._index(name, value, part)] if axes else value.clone()
        return cut

    def join(self, whole: State, states: Sequence[State], parts: Sequence[Part]) -> dict[str, Tensor]:
        """Put the parts' tensors into those of the whole.

        What belongs to one part is that part's; what no part has (a weight between units of different parts) stays as
        it is in `whole`; what all have is their mean.
        """
        joined = {name: value.clone() for name, value in whole.items()}
        for name, value in joined.items():
            axes = self.axes.get(name, {})
            if not axes:
                value.copy_(mean_of(states, name))
                continue
            indices = [self._index(name, value, part) for part in parts]
            if any(axis.is_of_units_only for axis in axes.values()):  # no number is in two parts
                for state, index in zip(states, indices, strict=True):
                    value[index] = state[name]
                continue
            total, count = torch.zeros_like(value), torch.zeros_like(value.real)  # complex numbers have no order
            for state, index in zip(states, indices, strict=True):
                total[index] += state[name]
                count[index] += 1
            value.copy_(torch.where(count > 0, total / count.clamp(min=1), value))
        return joined

    def leads_out(self, name: str) -> Tensor | None:
        """Of a weight that turns hidden units into what everybody sees, which of its inputs are hidden; else None."""
        return self.axes[name][1].layer >= 0 if name in self.takers and 0 not in self.axes[name] else None

    def _index(self, name: str, value: Tensor, part: Part) -> tuple[Tensor, ...]:
        """Selects what a part has, for indexing: an open grid."""
        known = self._chosen.get((id(part), name))
        if known is not None:
            return known[1]
        axes = self.axes[name]
        kept = [axes[axis].kept(part) if axis in axes else torch.arange(n) for axis, n in enumerate(value.shape)]
        index = tuple(each.view(-1, *[1] * (len(kept) - 1 - axis)) for axis, each in enumerate(kept))
        self._chosen[id(part), name] = part, index
        return index
