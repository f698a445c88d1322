"""Finding the hidden units of a network: which of its layers hang together, and so are cut as one.

How layers hang together is found by Torch-Pruning's dependency graph (Fang et al., "DepGraph: towards any structural
pruning", CVPR 2023), which follows autograd's own graph, so it reads any module that runs. torch.fx was weighed: it
stops at control flow and leaves the rules for every operation to us. Only that graph is used: the library removes units
from a network in place, one layer at a time, where we cut N parts at once and put them back.

Which tensors a layer has along its units is a matter of `rules`; what is done with the units is not known here.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..data.values import first_line
from ..errors import InputError
from ..preparing.building import copied
from ..preparing.eager import eagerly
from ..preparing.examination.alone import leaves
from ..preparing.hooks import refuse_hooks
from .rules import ROOTS, TAKERS, WITHOUT_RULE, along, summed_by, width_of
from .units import OFFER, Axis, Layer, Units


@eagerly()
def find_units(model: nn.Module, sample: Tensor) -> Units:
    """The hidden units of a network that takes `sample` (batch, ...).

    Raises
    ------
    InputError
        Naming the layer that cannot be cut, with `subnet(i)` offered.
    """
    import torch_pruning

    _refuse_tied(model)
    refuse_hooks(model, f"is one for all units, and a part has some of them: {OFFER}")
    for name, module in model.named_modules():
        if isinstance(module, WITHOUT_RULE):
            raise InputError(f"layer {name} is a {type(module).__name__}, which cannot be split: {OFFER}")
    traced = copied("the model", model).eval()
    for parameter in traced.parameters():
        parameter.requires_grad_(parameter.is_floating_point())  # frozen ones are part of the graph too
    _refuse_unreached(traced, sample)
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
                for group in graph.get_all_groups(root_module_types=ROOTS)
            ]
        units = Units(model)
        for group in groups:
            items = [
                (item.dep.target, item.dep.handler, torch.tensor(item.idxs), torch.tensor(roots))
                for item, roots in group
            ]
            if not any(target.type == kinds.OUTPUT for target, *_ in items):
                _Cutter(units, names, parameters, graph).add(items)
    except InputError:
        raise
    except Exception as error:  # of the graph itself, or of indices that it has found and a layer has not
        raise InputError(
            f"how the model's layers hang together cannot be found ({first_line(error)}): {OFFER}"
        ) from error
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

    def _mark_module(self, module: nn.Module, is_out: bool, indices: Tensor, number: int, units: Tensor) -> None:
        name = self.names[id(module)]
        prefix = f"{name}." if name else ""
        if not is_out and isinstance(module, TAKERS):
            self.units.takers.add(f"{prefix}weight")
        self.units.summed.update(prefix + tensor for tensor in summed_by(module))
        for tensor, axis, length, repeat in along(module, name, is_out=is_out):
            every = torch.cat([indices + i * (length // repeat) for i in range(repeat)])
            self._mark(prefix + tensor, axis, length, every, number, units.repeat(repeat))
        width = width_of(module, name)
        if width is not None:
            self.units.widths.setdefault(name, Axis.of_none(width)).mark(indices, number, units)

    def _mark(self, tensor: str, axis: int, length: int, indices: Tensor, number: int, units: Tensor) -> None:
        axes = self.units.axes.setdefault(tensor, {})
        axes.setdefault(axis, Axis.of_none(length)).mark(indices, number, units)


def _refuse_unreached(model: nn.Module, sample: Tensor) -> None:
    """A layer that a sample does not reach would stay as wide as it is, and may join later."""
    called: set[int] = set()
    hooks = [
        module.register_forward_pre_hook(lambda module, given: called.add(id(module))) for module in model.modules()
    ]
    with torch.random.fork_rng(), torch.enable_grad():
        reached = leaves(model(sample.clone()))
    for hook in hooks:
        hook.remove()
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention) and id(module) in called:
            called |= {id(part) for part in module.modules()}
        own = [id(p) for p in module.parameters(recurse=False)]
        if own and id(module) not in called and not reached & set(own):
            raise InputError(
                f"layer {name} takes no part in what the model computes of some rows, and would not be cut with the "
                f"others: leave it out, or {OFFER}"
            )


def _refuse_tied(model: nn.Module) -> None:
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        other = first.setdefault(id(parameter), name)
        if other != name:
            raise InputError(f"parameters {other} and {name} are the same, which cannot be split: {OFFER}")
