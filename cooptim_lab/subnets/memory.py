"""What an optimizer remembers of each subnet in a stack: taken out, and put in for others of the same shapes.

Momentum and the like have the shapes of the parameters they belong to, stacked and laid end to end as those are. So the
stack itself takes them apart: it is asked for its subnets' states while its parameters hold them.

Which subnets' memories are put together or cut, and why, is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .engines.stacks import Stack
from .engines.updating import Updater

Memory = Mapping[str, Mapping[str, Tensor]]
"""Of one subnet: by the name of the quantity, by the name of the parameter.

A quantity that is one number for all (how many steps were made) is under the parameter name "".
"""
COUNTS = ("step", "mu_product", "eta", "mu")
"""Numbers that torch's optimizers keep beside a parameter, alike for all that were stepped alike."""


def take(stack: Stack, updater: Updater) -> list[Memory]:
    """Of each member, copies on the CPU.

    Raises
    ------
    InputError
        When the optimizer remembers something that has not the shape of a parameter, or is not the same for all.
    """
    found: list[dict[str, dict[str, Tensor]]] = [{} for _ in stack.members]
    for key in _keys(updater):
        values = [(tensor, names, _remembered(updater, tensor).get(key)) for tensor, names in updater.held]
        known = [(tensor, names, value) for tensor, names, value in values if value is not None]
        if not known:
            continue
        if all(_is_one_number(key, value, tensor) for tensor, _, value in known):
            numbers = {float(value) for *_, value in known}
            if len(numbers) > 1:
                raise InputError(_refused(updater, key, "that differs from parameter to parameter"))
            for of in found:
                of[key] = {"": known[0][2].clone().cpu()}
            continue
        for tensor, _, value in known:
            if not isinstance(value, Tensor) or value.shape != tensor.shape or value.dtype != tensor.dtype:
                raise InputError(_refused(updater, key, "that has not the shape of a parameter"))
        with _holding([tensor for tensor, *_ in known]):
            for tensor, _, value in known:
                tensor.copy_(value)
            for of, state in zip(found, stack.states(), strict=True):
                of[key] = {name: state[name].cpu().clone() for _, names, _ in known for name in names}
    return list(found)


def put(stack: Stack, updater: Updater, memory: Sequence[Memory]) -> None:
    """Let the optimizer remember this of the members, in place of what it has."""
    stepped = {name for of in memory[0].values() for name in of}
    for key, first in memory[0].items():
        places = [(tensor, names) for tensor, names in updater.held if stepped & set(names) or stepped == {""}]
        if "" in first:
            for tensor, _ in places:
                # It stays on the CPU where the optimizer keeps it there.
                is_there = updater.optimizer.param_groups[0].get("capturable")
                _give(updater, tensor, key, first[""].to(tensor.device) if is_there else first[""])
            continue
        with _holding([tensor for tensor, _ in updater.held]):
            for tensor, _ in updater.held:
                tensor.zero_()
            for state, of in zip(stack.states(), memory, strict=True):
                for name, value in of[key].items():
                    state[name].copy_(value)
            for tensor, names in places:
                if set(first) & set(names):
                    _give(updater, tensor, key, tensor.detach())


@contextmanager
def _holding(tensors: Sequence[Tensor]) -> Iterator[None]:
    """While it lasts, what the optimizer updates may hold other values."""
    kept = [tensor.detach().clone() for tensor in tensors]
    with torch.no_grad():
        yield
        for tensor, value in zip(tensors, kept, strict=True):
            tensor.copy_(value)


def _give(updater: Updater, tensor: Tensor, key: str, value: Tensor) -> None:
    """In place where there is one: a captured step reads and writes it where it is."""
    state = updater.optimizer.state[tensor]
    if isinstance(state.get(key), Tensor):
        state[key].copy_(value)
    else:
        state[key] = value.clone()


def _remembered(updater: Updater, tensor: Tensor) -> Mapping[str, Any]:
    """Nothing before a parameter's first step."""
    return updater.optimizer.state.get(tensor, {})


def _keys(updater: Updater) -> list[str]:
    return list(dict.fromkeys(key for tensor, _ in updater.held for key in _remembered(updater, tensor)))


def _is_one_number(key: str, value: Any, tensor: Tensor) -> bool:
    return isinstance(value, Tensor) and value.dim() == 0 and (tensor.dim() > 0 or key in COUNTS)


def _refused(updater: Updater, key: str, what: str) -> str:
    kind = type(updater.optimizer).__name__
    return (
        f"optimizer {kind} remembers a {key} {what}, which cannot be dealt anew with the neurons (merged ones are, "
        "where nobody says otherwise): give resplit = 0, or Adam or SGD"
    )
