"""A rule for every kind of layer: which axes of its tensors run along the units that it takes or makes.

How layers hang together in a network is not known here.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from ..errors import InputError
from .units import NORMS_OVER_UNITS, OFFER

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_BY_UNIT = (*_BATCH_NORMS, *_INSTANCE_NORMS, *NORMS_OVER_UNITS, nn.GroupNorm, nn.PReLU)
"""What they have, they have for each unit."""

WITHOUT_RULE = (nn.RNNBase, nn.RNNCellBase, nn.Bilinear, nn.EmbeddingBag, nn.modules.conv._ConvTransposeNd)
TAKERS = (nn.Linear, *_CONVOLUTIONS)
"""Their outputs may be what everybody sees while their inputs are hidden units."""
SUMMED = {nn.MultiheadAttention: ("out_proj.weight",), **dict.fromkeys(TAKERS, ("weight",))}
"""Weights whose second axis, where it runs along units, is one that is summed over, and whose sums are to be kept (see
`scaled` for queries, keys and values)."""
ROOTS = (*TAKERS, nn.Embedding, nn.MultiheadAttention)
"""They make units."""


class Along(NamedTuple):
    """One axis of a tensor along a layer's units."""

    tensor: str
    """Its name in the layer."""
    axis: int
    length: int
    repeat: int = 1
    """How many times the units come, one after the other."""


def along(module: nn.Module, name: str, *, is_out: bool) -> list[Along]:
    """Of the tensors that a layer of this name has, the axes along the units that it makes (`is_out`) or takes.

    Raises
    ------
    InputError
        When there is no rule for such a layer.
    """
    match module:
        case nn.Linear():
            if is_out:
                found = [Along("weight", 0, module.out_features), Along("bias", 0, module.out_features)]
            else:
                found = [Along("weight", 1, module.in_features)]
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            is_depthwise = module.groups == module.out_channels == module.in_channels
            if module.groups > 1 and not is_depthwise:
                raise InputError(f"layer {name} is a convolution of {module.groups} groups: {OFFER}")
            if is_out:
                found = [Along("weight", 0, module.out_channels), Along("bias", 0, module.out_channels)]
            else:
                found = [Along("weight", 0 if is_depthwise else 1, module.in_channels)]
        case nn.Embedding():
            found = [Along("weight", 1, module.embedding_dim)]
        case nn.MultiheadAttention():
            if not module._qkv_same_embed_dim or module.bias_k is not None:
                raise InputError(f"layer {name} attends to keys of another width, or adds some: {OFFER}")
            wide = module.embed_dim
            found = [
                Along("in_proj_weight", 0, 3 * wide, 3),  # queries, keys, values
                Along("in_proj_weight", 1, wide),
                Along("in_proj_bias", 0, 3 * wide, 3),
                Along("out_proj.weight", 0, wide),
                Along("out_proj.weight", 1, wide),
                Along("out_proj.bias", 0, wide),
            ]
        case _ if isinstance(module, _BY_UNIT):
            width = _width(module, name)
            found = [Along(tensor, 0, width) for tensor in ("weight", "bias", "running_mean", "running_var")]
        case _:
            raise InputError(f"layer {name} is a {type(module).__name__}, which cannot be split: {OFFER}")
    return [each for each in found if _has(module, each.tensor)]


def summed_by(module: nn.Module) -> tuple[str, ...]:
    """Of a layer, the names of its weights (out, in, ...) that sum over their inputs."""
    return next((names for kind, names in SUMMED.items() if isinstance(module, kind)), ())


def width_of(module: nn.Module, name: str) -> int | None:
    """How many units a layer has, where that is a setting also if it has no parameter.

    Raises
    ------
    InputError
        When it has several axes of them.
    """
    if isinstance(module, nn.MultiheadAttention):
        return module.embed_dim
    return _width(module, name) if isinstance(module, _BY_UNIT) else None


def _has(module: nn.Module, tensor: str) -> bool:
    path, _, attribute = tensor.rpartition(".")
    return getattr(module.get_submodule(path), attribute, None) is not None


def _width(module: nn.Module, name: str) -> int:
    if isinstance(module, NORMS_OVER_UNITS):
        if len(module.normalized_shape) != 1:
            raise InputError(f"layer {name} normalises over several axes, which cannot be split: {OFFER}")
        return module.normalized_shape[0]
    if isinstance(module, nn.GroupNorm):
        return module.num_channels
    return module.num_parameters if isinstance(module, nn.PReLU) else module.num_features  # type: ignore[return-value]
