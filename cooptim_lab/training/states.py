"""A network's state, its parameters and buffers: by name, in a network of its own, and as flat arrays to be sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, those left out of the state dict too."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def clone(model: nn.Module, state: Mapping[str, Tensor] | None = None, prefix: str = "") -> nn.Module:
    """A network of its own with tensors of its own; settings, which training does not change, are shared.

    `state` has the values of parameters and buffers, by name; others keep the model's. A tenth of the time that
    `copy.deepcopy` takes.
    """

    def own(name: str, tensor: Tensor) -> Tensor:
        return (state or {}).get(prefix + name, tensor).detach().clone()

    made = model.__class__.__new__(model.__class__)
    made.__dict__.update(model.__dict__)
    made.__dict__["_parameters"] = {
        name: None if p is None else nn.Parameter(own(name, p), p.requires_grad)
        for name, p in model._parameters.items()
    }
    made.__dict__["_buffers"] = {name: None if b is None else own(name, b) for name, b in model._buffers.items()}
    made.__dict__["_modules"] = {
        name: None if m is None else clone(m, state, f"{prefix}{name}.") for name, m in model._modules.items()
    }
    return made


def pack(networks: Iterable[nn.Module]) -> dict[torch.dtype, np.ndarray]:
    """All parameters and buffers, end to end by dtype, as bytes: numpy has no bfloat16.

    Pickling a tensor for every parameter takes many times as long.
    """
    return {
        dtype: torch.cat([value.detach().flatten() for value in values]).view(torch.uint8).numpy()
        for dtype, values in _by_dtype(networks).items()
    }


@torch.no_grad()
def unpack(packed: dict[torch.dtype, np.ndarray], networks: Iterable[nn.Module]) -> None:
    """Give networks of the same shapes what was packed."""
    for dtype, values in _by_dtype(networks).items():
        flat = torch.from_numpy(packed[dtype]).view(dtype)
        for value, part in zip(values, flat.split([value.numel() for value in values]), strict=True):
            value.copy_(part.view_as(value))


def _by_dtype(networks: Iterable[nn.Module]) -> dict[torch.dtype, list[Tensor]]:
    values: dict[torch.dtype, list[Tensor]] = {}
    for network in networks:
        for value in state_of(network).values():
            values.setdefault(value.dtype, []).append(value)
    return values
