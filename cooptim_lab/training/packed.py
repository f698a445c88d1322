"""Networks as a few flat arrays, to be sent: one of each dtype, in place of a pickled tensor for every parameter."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from .units import state_of


def pack(networks: Iterable[nn.Module]) -> dict[torch.dtype, np.ndarray]:
    """All parameters and buffers, end to end, as bytes: numpy has no bfloat16."""
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
