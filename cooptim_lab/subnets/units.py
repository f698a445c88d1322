"""Which parameters belong to which hidden units: what a network can be cut along, and put together again.

A hidden unit is a channel, a feature or a head that only the network's inside sees. Units that are added to each other
(a residual sum), normalised together or flattened into the same product are one *layer of units*, cut as one.

How layers hang together is found by Torch-Pruning's dependency graph (Fang et al., "DepGraph: towards any structural
pruning", CVPR 2023), which follows autograd's own graph, so it reads any module that runs. torch.fx was weighed: it
stops at control flow and leaves the rules for every operation to us. Only that graph is used: the library removes units
from a network in place, one layer at a time, where we cut N parts at once and put them back.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .states import state_of

OFFER = "define subnet(i) in the task"
BISECTIONS = 14
"""Of the share of units that a network of a given size has."""
NORMS_OVER_UNITS = (nn.LayerNorm, nn.RMSNorm)
"""They normalise over all units of a layer together, so a part alone computes something else."""

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_WITHOUT_RULE = (nn.RNNBase, nn.RNNCellBase, nn.Bilinear, nn.EmbeddingBag, nn.modules.conv._ConvTransposeNd)
_ROOTS = (nn.Linear, *_CONVOLUTIONS, nn.Embedding, nn.MultiheadAttention)


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

    def kept(self, part: Part) -> Tensor:
        """The indices that a part has, ascending."""
        keeps = self.layer < 0
        for number, units in enumerate(part):
            keeps |= (self.layer == number) & torch.isin(self.unit, units)
        return keeps.nonzero().flatten()


Part = Sequence[Tensor]
"""The units of each layer, by its number, that one subnet has."""


@dataclass
class Units:
    """The hidden units of a network.

    Attributes
    ----------
    layers
        What can be cut.
    axes : dict[str, dict[int, Axis]]
        By the name of a parameter or buffer, by axis.
    """

    model: nn.Module
    layers: list[Layer] = field(default_factory=list)
    axes: dict[str, dict[int, Axis]] = field(default_factory=dict)
    _norms: dict[str, Axis] = field(default_factory=dict)
    """Modules whose width is a setting also where they have no parameter."""
    _takers: set[str] = field(default_factory=set)
    """Weights that take hidden units as inputs."""

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
        for layer in self.layers:
            if parts > layer.size:
                raise InputError(
                    f"subnets = {parts}: layer {layer.name} has {layer.size} {layer.what}; give at most {layer.size}"
                )
            order = torch.arange(layer.size) if generator is None else torch.randperm(layer.size, generator=generator)
            size, more = divmod(layer.size, parts)
            for part, units in zip(dealt, order.split([size + (i < more) for i in range(parts)]), strict=True):
                part.append(units.sort().values)
        return dealt

    def share(self, parameters: int) -> list[Tensor]:
        """As many units of each layer, in the same proportion, as make a network of about so many parameters."""
        low, high = 0.0, 1.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            count = sum(p.numel() for p in self.narrow(self._first(middle)).parameters())
            low, high = (middle, high) if count <= parameters else (low, middle)
        return self._first(1.0 if low > 1 - 2.0 ** (1 - BISECTIONS) else low)

    def _first(self, share: float) -> list[Tensor]:
        return [torch.arange(max(1, round(share * layer.size))) for layer in self.layers]

    def narrow(self, part: Part) -> nn.Module:
        """A copy of the network that has only these units."""
        narrow = copy.deepcopy(self.model)
        places = {name: _place(narrow, name) for name in self.axes}
        with torch.no_grad():
            for name, value in self.cut(state_of(self.model), part).items():
                if name in places:
                    owner, attribute = places[name]
                    old = getattr(owner, attribute)
                    is_parameter = isinstance(old, nn.Parameter)
                    setattr(owner, attribute, nn.Parameter(value, old.requires_grad) if is_parameter else value)
        for name, module in narrow.named_modules():
            if name in self._norms:
                _resize(module, len(self._norms[name].kept(part)))
            else:
                _resize(module, None)
        return narrow

    def cut(self, state: Mapping[str, Tensor], part: Part) -> dict[str, Tensor]:
        """Of tensors shaped as the network's (its own, or an optimizer's), what a part has: copies."""
        cut = {}
        for name, value in state.items():
            axes = self.axes.get(name, {})
            cut[name] = (value[self._index(value, axes, part)] if axes else value).clone()
        return cut

    def join(
        self, whole: Mapping[str, Tensor], states: Sequence[Mapping[str, Tensor]], parts: Sequence[Part]
    ) -> dict[str, Tensor]:
        """Put the parts' tensors into those of the whole.

        What belongs to one part is that part's; what no part has (a weight between units of different parts) stays as
        it is in `whole`; what all have is their mean.
        """
        joined = {name: value.clone() for name, value in whole.items()}
        for name, value in joined.items():
            axes = self.axes.get(name, {})
            if not axes:
                mean = torch.stack([state[name].double() for state in states]).mean(0)
                value.copy_(mean if value.is_floating_point() else mean.round())
                continue
            total, count = torch.zeros_like(value), torch.zeros_like(value)
            for state, part in zip(states, parts, strict=True):
                index = self._index(value, axes, part)
                total[index] += state[name]
                count[index] += 1
            value.copy_(torch.where(count > 0, total / count.clamp(min=1), value))
        return joined

    def leads_out(self, name: str) -> Tensor | None:
        """Of a weight that turns hidden units into what everybody sees, which of its inputs are hidden; else None."""
        return self.axes[name][1].layer >= 0 if name in self._takers and 0 not in self.axes[name] else None

    @staticmethod
    def _index(value: Tensor, axes: Mapping[int, Axis], part: Part) -> tuple[Tensor, ...]:
        """Selects what a part has, for indexing."""
        kept = [axes[axis].kept(part) if axis in axes else torch.arange(n) for axis, n in enumerate(value.shape)]
        return torch.meshgrid(*kept, indexing="ij")


def find_units(model: nn.Module, sample: Tensor) -> Units:
    """The hidden units of a network that takes `sample` (batch, ...).

    Raises
    ------
    InputError
        Naming the layer that cannot be cut, with `subnet(i)` offered.
    """
    import torch_pruning

    _refuse_tied(model)
    for name, module in model.named_modules():
        if isinstance(module, _WITHOUT_RULE):
            raise InputError(f"layer {name} is a {type(module).__name__}, which cannot be split: {OFFER}")
    traced = copy.deepcopy(model)
    for parameter in traced.parameters():
        parameter.requires_grad_(parameter.is_floating_point())  # frozen ones are part of the graph too
    names = {id(module): name for name, module in traced.named_modules()}
    parameters = {id(parameter): name for name, parameter in traced.named_parameters()}
    kinds = torch_pruning.ops.OPTYPE
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(), torch.enable_grad():
            warnings.simplefilter("ignore")  # it tells of parameters that belong to no standard module
            # The output passes one more operation, so that the graph has a node for it.
            graph = torch_pruning.DependencyGraph().build_dependency(
                traced, (sample,), output_transform=lambda out: 1 * out
            )
            groups = [
                list(zip(group, (item.root_idxs for item in group), strict=True))
                for group in (graph.get_all_groups(root_module_types=_ROOTS))
            ]
    except Exception as error:
        raise InputError(
            f"how the model's layers hang together cannot be found ({_first_line(error)}): {OFFER}"
        ) from error

    units = Units(model)
    for group in groups:
        items = [
            (item.dep.target, item.dep.handler, torch.tensor(item.idxs), torch.tensor(roots)) for item, roots in group
        ]
        if any(target.type == kinds.OUTPUT for target, *_ in items):
            continue
        _Cutter(units, names, parameters, graph).add(items)
    return units


@dataclass
class _Cutter:
    """Adds one group of the dependency graph to the units."""

    units: Units
    names: Mapping[int, str]
    parameters: Mapping[int, str]
    graph: Any

    def add(self, items: Sequence[tuple[Any, Any, Tensor, Tensor]]) -> None:
        block, what, owner = self._blocks(items)
        self.units.layers.append(Layer(self.names[id(owner)], int(block.max()) + 1, what))
        number = len(self.units.layers) - 1
        for target, handler, indices, roots in items:
            module = target.module
            if isinstance(module, nn.Parameter):
                axis = max(i for i, n in enumerate(module.shape) if n > 1)
                self._mark(self.parameters[id(module)], axis, module.shape[axis], indices, number, block[roots])
            elif id(module) in self.names:
                is_out = self.graph.is_out_channel_pruning_fn(handler)
                self._mark_module(module, is_out, indices, number, block[roots])

    def _blocks(self, items: Sequence[tuple[Any, Any, Tensor, Tensor]]) -> tuple[Tensor, str, nn.Module]:
        """For every unit of the root, with which others it stays together: of its head, or norm group; and whose."""
        block, what = torch.arange(int(max(roots.max() for *_, roots in items)) + 1), "units"
        owner = items[0][0].module
        for target, _, indices, roots in items:
            module = target.module
            if isinstance(module, nn.MultiheadAttention):
                size, name = module.embed_dim // module.num_heads, "heads"
            elif isinstance(module, nn.GroupNorm):
                size, name = module.num_channels // module.num_groups, "groups"
            else:
                continue
            found = torch.empty_like(block).index_put_((roots,), indices // size)
            if what != "units" and not torch.equal(found, block):
                raise InputError(f"layer {self.names[id(module)]} divides its units otherwise than others do: {OFFER}")
            block, what, owner = found, name, module
        return block, what, owner

    def _mark_module(self, module: nn.Module, is_out: bool, indices: Tensor, number: int, unit: Tensor) -> None:
        name = self.names[id(module)]
        prefix = f"{name}." if name else ""

        def mark(tensor: str, axis: int, length: int, repeat: int = 1) -> None:
            if getattr(module, tensor.split(".")[0], None) is not None:
                every = torch.cat([indices + i * (length // repeat) for i in range(repeat)])
                self._mark(prefix + tensor, axis, length, every, number, unit.repeat(repeat))

        match module:
            case nn.Linear():
                if not is_out:
                    self.units._takers.add(f"{prefix}weight")
                mark("weight", 0 if is_out else 1, module.out_features if is_out else module.in_features)
                if is_out:
                    mark("bias", 0, module.out_features)
            case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
                if not is_out:
                    self.units._takers.add(f"{prefix}weight")
                is_depthwise = module.groups == module.out_channels == module.in_channels
                if module.groups > 1 and not is_depthwise:
                    raise InputError(f"layer {name} is a convolution of {module.groups} groups: {OFFER}")
                mark(
                    "weight", 0 if is_out or is_depthwise else 1, module.out_channels if is_out else module.in_channels
                )
                if is_out:
                    mark("bias", 0, module.out_channels)
            case nn.Embedding():
                mark("weight", 1, module.embedding_dim)
            case nn.MultiheadAttention():
                if not module._qkv_same_embed_dim or module.bias_k is not None:
                    raise InputError(f"layer {name} attends to keys of another width, or adds some: {OFFER}")
                wide = module.embed_dim
                mark("in_proj_weight", 0, 3 * wide, 3)
                mark("in_proj_weight", 1, wide)
                mark("in_proj_bias", 0, 3 * wide, 3)
                for axis in (0, 1):
                    mark("out_proj.weight", axis, wide)
                if module.out_proj.bias is not None:
                    mark("out_proj.bias", 0, wide)
                self._mark_norm(name, wide, indices, number, unit)
            case _ if isinstance(module, (*_BATCH_NORMS, *_INSTANCE_NORMS, *NORMS_OVER_UNITS, nn.GroupNorm, nn.PReLU)):
                width = _width(module, name)
                for tensor in ("weight", "bias", "running_mean", "running_var"):
                    mark(tensor, 0, width)
                self._mark_norm(name, width, indices, number, unit)
            case _:
                raise InputError(f"layer {name} is a {type(module).__name__}, which cannot be split: {OFFER}")

    def _mark(self, tensor: str, axis: int, length: int, indices: Tensor, number: int, unit: Tensor) -> None:
        axes = self.units.axes.setdefault(tensor, {})
        of = axes.setdefault(axis, Axis(torch.full((length,), -1), torch.full((length,), -1)))
        of.layer[indices], of.unit[indices] = number, unit

    def _mark_norm(self, name: str, width: int, indices: Tensor, number: int, unit: Tensor) -> None:
        of = self.units._norms.setdefault(name, Axis(torch.full((width,), -1), torch.full((width,), -1)))
        of.layer[indices], of.unit[indices] = number, unit


def _width(module: nn.Module, name: str) -> int:
    if isinstance(module, NORMS_OVER_UNITS):
        if len(module.normalized_shape) != 1:
            raise InputError(f"layer {name} normalises over several axes, which cannot be split: {OFFER}")
        return module.normalized_shape[0]
    if isinstance(module, nn.GroupNorm):
        return module.num_channels
    return module.num_parameters if isinstance(module, nn.PReLU) else module.num_features  # type: ignore[return-value]


def _resize(module: nn.Module, width: int | None) -> None:
    """Let a module's settings say what its tensors are."""
    match module:
        case nn.Linear():
            module.out_features, module.in_features = module.weight.shape
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            if module.groups > 1:
                module.groups = module.weight.shape[0]
            module.out_channels, module.in_channels = module.weight.shape[0], module.weight.shape[1] * module.groups
        case nn.Embedding():
            module.embedding_dim = module.weight.shape[1]
        case nn.MultiheadAttention() if width is not None:
            size = module.embed_dim // module.num_heads
            module.embed_dim = module.kdim = module.vdim = width
            module.num_heads = width // size
        case nn.GroupNorm() if width is not None:
            size = module.num_channels // module.num_groups
            module.num_channels, module.num_groups = width, width // size
        case nn.PReLU() if width is not None:
            module.num_parameters = width
        case nn.LayerNorm() | nn.RMSNorm() if width is not None:
            module.normalized_shape = (width,)
        case _ if width is not None:
            module.num_features = width  # type: ignore[assignment]


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    owner, _, attribute = name.rpartition(".")
    return model.get_submodule(owner), attribute


def _refuse_tied(model: nn.Module) -> None:
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        other = first.setdefault(id(parameter), name)
        if other != name:
            raise InputError(f"parameters {other} and {name} are the same, which cannot be split: {OFFER}")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
