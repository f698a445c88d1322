"""What an optimizer remembers of each subnet in a stack: taken out, and put in for others of the same shapes.

Momentum and the like have the shapes of the parameters they belong to, stacked and laid end to end as those are. So the
stack itself takes them apart: it is asked for its subnets' states while its parameters hold them.

Which subnets' memories are put together or cut, and why, is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .engines.stacks import Stack

Memory = Mapping[str, Mapping[str, Tensor]]
"""Of one subnet: by the name of the quantity, by the name of the parameter.

A quantity that is one number for all (how many steps were made) is under the parameter name "".
"""


def take(stack: Stack, optimizer: torch.optim.Optimizer, trained: Sequence[Sequence[str]]) -> list[Memory]:
    """Of each member, copies on the CPU. `trained` names the parameters that each has in training."""
    found: list[dict[str, Mapping[str, Tensor]]] = [{} for _ in stack.members]
    for key, values in _quantities(optimizer).items():
        if values[0].numel() == 1 and key == "step":
            for of in found:
                of[key] = {"": values[0].clone().cpu()}
            continue
        with _holding(optimizer, values):
            for of, names, state in zip(found, trained, stack.states(), strict=True):
                of[key] = {name: state[name].cpu().clone() for name in names}
    return list(found)


@torch.no_grad()
def put(stack: Stack, optimizer: torch.optim.Optimizer, memory: Sequence[Memory]) -> None:
    """Let the optimizer remember this of the members, in place of what it has; how many steps it made stays."""
    for key, values in _quantities(optimizer).items():
        if "" in memory[0].get(key, {"": None}):
            continue
        with _holding(optimizer, values):
            for state, of in zip(stack.states(), memory, strict=True):
                for name, value in of[key].items():
                    state[name].copy_(value)
            for tensor, value in zip(_tensors(optimizer), values, strict=True):
                value.copy_(tensor)


@contextmanager
def _holding(optimizer: torch.optim.Optimizer, values: Sequence[Tensor]) -> Iterator[None]:
    """While it lasts, what the optimizer updates holds other values: what it remembers of each."""
    tensors = _tensors(optimizer)
    kept = [tensor.detach().clone() for tensor in tensors]
    _put(tensors, values)
    try:
        yield
    finally:
        _put(tensors, kept)


@torch.no_grad()
def _put(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def _tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [tensor for group in optimizer.param_groups for tensor in group["params"]]


def _quantities(optimizer: torch.optim.Optimizer) -> dict[str, list[Tensor]]:
    """By name, for each tensor that the optimizer updates; empty before its first step."""
    tensors = _tensors(optimizer)
    first = optimizer.state.get(tensors[0], {})
    return {
        key: [optimizer.state[tensor][key] for tensor in tensors]
        for key, value in first.items()
        if isinstance(value, Tensor)
    }
