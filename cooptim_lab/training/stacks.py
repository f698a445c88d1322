"""What a stack of subnets is, and the two kinds that run the subnets' own forward; autograd knows their way back."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .states import clone


class Stack(Protocol):
    """Some subnets that train as one program. `members` are their places among all subnets."""

    engine: str
    members: list[int]

    def __init__(self, subnets: Sequence[nn.Module], members: list[int]) -> None:
        """The subnets, of one architecture, are not changed."""

    def parameters(self) -> list[Tensor]:
        """What the optimizer updates."""

    def __call__(self, x: Tensor, *, is_own: bool = False) -> Tensor:
        """Outputs (members, batch, ...) of a batch (batch, ...); `is_own`: of one of each (members, batch, ...)."""

    def backward(self, outputs: Tensor, gradient: Tensor) -> None:
        """From the gradient at the outputs of the last call, those of the parameters, in their `grad`."""

    def unstack(self) -> list[nn.Module]:
        """The subnets as plain modules again, in the order of `members`."""


def take_apart(template: nn.Module, stacked: Mapping[str, Tensor]) -> list[nn.Module]:
    """Networks made like `template`, of what has been stacked: all parameters and buffers, (N, ...), by name."""
    each = zip(*(value.detach() for value in stacked.values()), strict=True)
    return [clone(template, dict(zip(stacked, values, strict=True))) for values in each]


class AutogradStack:
    """The way back is autograd's, which adds to the gradients that are there."""

    def backward(self, outputs: Tensor, gradient: Tensor) -> None:
        outputs.backward(gradient)


class VmapStack(AutogradStack):
    """Modules of one architecture, by `torch.func.functional_call` under `vmap`."""

    engine = "vmap"

    def __init__(self, subnets: Sequence[nn.Module], members: list[int]) -> None:
        self.members, self._template = members, subnets[0]
        parameters, self._buffers = torch.func.stack_module_state(list(subnets))
        trained = {name for name, p in subnets[0].named_parameters() if p.requires_grad}
        self._parameters = {name: value.detach().requires_grad_(name in trained) for name, value in parameters.items()}

        def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(self._template, (parameters, buffers), (x,))

        self._shared = torch.vmap(call, in_dims=(0, 0, None), randomness="different")
        self._own = torch.vmap(call, in_dims=(0, 0, 0), randomness="different")

    def parameters(self) -> list[Tensor]:
        return [p for p in self._parameters.values() if p.requires_grad]

    def __call__(self, x: Tensor, *, is_own: bool = False) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no batching rule
            return (self._own if is_own else self._shared)(self._parameters, self._buffers, x)

    def unstack(self) -> list[nn.Module]:
        return take_apart(self._template, {**self._parameters, **self._buffers})


class SingleStack(AutogradStack):
    """One subnet, trained as the module that it is: a copy."""

    engine = "separate"

    def __init__(self, subnets: Sequence[nn.Module], members: list[int]) -> None:
        (subnet,), self.members = subnets, members
        self._subnet = copy.deepcopy(subnet)

    def parameters(self) -> list[Tensor]:
        return [p for p in self._subnet.parameters() if p.requires_grad]

    def __call__(self, x: Tensor, *, is_own: bool = False) -> Tensor:
        return self._subnet(x[0] if is_own else x).unsqueeze(0)

    def unstack(self) -> list[nn.Module]:
        return [clone(self._subnet)]
