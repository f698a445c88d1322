"""What a network has learned, its parameters and buffers: by name, put into a network, as flat arrays to be sent.

What a tensor is to the network, and whom it is sent to, is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError

State = Mapping[str, Tensor]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, those left out of the state dict too; what has two names has its first."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@torch.no_grad()
def fill(model: nn.Module, state: State) -> None:
    """Give a network the values of `state`, which names all that it has.

    Raises
    ------
    InputError
        When they do not fit: the network that was trained has become another one.
    """
    for name, value in state_of(model).items():
        if name not in state or state[name].shape != value.shape:
            now = tuple(state[name].shape) if name in state else "gone"
            raise InputError(
                f"{name} of a trained sub-network is {now}, and was {tuple(value.shape)}: register it with the shape "
                "that it will have, and keep it"
            )
        value.copy_(state[name])


def mean_of(states: Sequence[State], name: str) -> Tensor:
    """Of one tensor, in double precision; rounded where it holds whole numbers (BatchNorm's count of batches)."""
    first = states[0][name]
    wide = torch.complex128 if first.is_complex() else torch.float64
    mean = torch.stack([state[name].to(wide) for state in states]).mean(0)
    return mean if first.is_floating_point() or first.is_complex() else mean.round()


def pack(states: Iterable[State]) -> dict[torch.dtype, np.ndarray]:
    """Everything, end to end by dtype, as bytes: numpy has no bfloat16, and pickling every tensor takes long."""
    return {
        dtype: torch.cat([value.detach().flatten() for value in values]).view(torch.uint8).numpy()
        for dtype, values in _by_dtype(states).items()
    }


@torch.no_grad()
def unpack(packed: Mapping[torch.dtype, np.ndarray], states: Iterable[State]) -> None:
    """Give states of the same names and shapes what was packed."""
    for dtype, values in _by_dtype(states).items():
        flat = torch.from_numpy(packed[dtype]).view(dtype)
        for value, part in zip(values, flat.split([value.numel() for value in values]), strict=True):
            value.copy_(part.view_as(value))


def _by_dtype(states: Iterable[State]) -> dict[torch.dtype, list[Tensor]]:
    """In the order of their names: states of one network may list them in another."""
    values: dict[torch.dtype, list[Tensor]] = {}
    for state in states:
        for name in sorted(state):
            values.setdefault(state[name].dtype, []).append(state[name])
    return values
