"""What a stack of subnets is, and the two kinds that take any module: by `torch.func`, and one by itself.

The loss and the optimizer are not known here, nor which subnets belong together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...preparing.building import copied, trained
from ..states import State, state_of


class Stack(Protocol):
    """Some subnets that train as one program. `members` are their places among all subnets."""

    engine: str
    overwrites_gradients: bool
    """Whether `backward` sets gradients; otherwise it adds to what is there, as autograd does."""
    members: list[int]

    def __init__(self, subnets: Sequence[nn.Module], members: list[int]) -> None:
        """The subnets, of one architecture, are not changed."""

    def parameters(self) -> dict[str, Tensor]:
        """What is trained, by the names that a subnet has for it: (members, ...), or of one by itself its own."""

    def buffers(self) -> list[Tensor]:
        """What a forward pass may change."""

    def __call__(self, x: Tensor, *, is_own: bool = False) -> Tensor:
        """Outputs (members, batch, ...) of a batch (batch, ...); `is_own`: of one of each (members, batch, ...)."""

    def backward(self, outputs: Tensor, gradient: Tensor) -> None:
        """From the gradient at the outputs of the last call, those of the parameters, in their `grad`."""

    def states(self) -> list[State]:
        """What each subnet has learned, in the order of `members`: views, which change as training goes on."""


class AutogradStack:
    """One that runs the subnets' own forward."""

    overwrites_gradients = False
    module: Any = None
    """Whose forward it is, with whatever it keeps beside parameters and buffers."""

    def backward(self, outputs: Tensor, gradient: Tensor) -> None:
        outputs.backward(gradient)


def states_of(stacked: State) -> list[State]:
    """Each network's own part of tensors (N, ...)."""
    each = zip(*(value.detach() for value in stacked.values()), strict=True)
    return [dict(zip(stacked, values, strict=True)) for values in each]


class VmapStack(AutogradStack):
    """Modules of one architecture, by `torch.func.functional_call` under `vmap`."""

    engine = "vmap"

    def __init__(self, subnets: Sequence[nn.Module], members: list[int]) -> None:
        self.members, self.module = members, subnets[0]
        parameters, self._buffers = torch.func.stack_module_state(list(subnets))
        trained = {name for name, p in subnets[0].named_parameters() if p.requires_grad}
        self._parameters = {name: value.detach().requires_grad_(name in trained) for name, value in parameters.items()}

        def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(self.module, (parameters, buffers), (x,))

        self._shared = torch.vmap(call, in_dims=(0, 0, None), randomness="different")
        self._own = torch.vmap(call, in_dims=(0, 0, 0), randomness="different")

    def parameters(self) -> dict[str, Tensor]:
        return {name: p for name, p in self._parameters.items() if p.requires_grad}

    def buffers(self) -> list[Tensor]:
        return list(self._buffers.values())

    def __call__(self, x: Tensor, *, is_own: bool = False) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels of attention have no batching rule
            return (self._own if is_own else self._shared)(self._parameters, self._buffers, x)

    def states(self) -> list[State]:
        return states_of({**self._parameters, **self._buffers})


class SingleStack(AutogradStack):
    """One subnet, a copy, trained as the module that it is."""

    engine = "separate"

    def __init__(self, subnets: Sequence[nn.Module], members: list[int]) -> None:
        (subnet,), self.members = subnets, members
        self.module = copied("a sub-network", subnet)

    def parameters(self) -> dict[str, Tensor]:
        return dict(trained(self.module))

    def buffers(self) -> list[Tensor]:
        return list(self.module.buffers())

    def __call__(self, x: Tensor, *, is_own: bool = False) -> Tensor:
        return self.module(x[0] if is_own else x).unsqueeze(0)

    def states(self) -> list[State]:
        return [{name: value.detach() for name, value in state_of(self.module).items()}]
