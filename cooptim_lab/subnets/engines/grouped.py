"""N perceptrons of one architecture as one: a batched matrix product per layer, and backpropagation written out.

A step of small networks is dozens of operations of a few microseconds, and autograd's own work is as long as theirs
(measured, 16 perceptrons 64-64-64-10: 0.66 ms a step as here, 0.82 ms by autograd). Written out, each gradient is also
computed where the optimizer reads it, with nothing to clear before and to add after.

Activations are (N, features, batch), as the weights are torch's own (N, out, in): a layer that is narrow (the classes)
then makes products that are wide, and those take torch a third of the time on a CPU.

The loss, and the optimizer that reads the gradients, are not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..scaled import factor_of, plain_kind, stored
from ..states import State
from .stacks import states_of

ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid,
    nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Identity, nn.Dropout,
)  # fmt: skip
"""Layers that treat every number alike, so that they run on stacked subnets as they are."""
_KINDS = ("weight", "bias")


class GroupedStack:
    """Perceptrons, from the first linear layer on; what stands in front of it has nothing to train."""

    engine = "grouped"
    overwrites_gradients = True

    def __init__(self, subnets: Sequence[nn.Module], members: list[int]) -> None:
        self.members = members
        self._front: list[nn.Module] = []
        self._layers: list[_Layer] = []
        self._linear: dict[str, _Linear] = {}  # by their names in a subnet
        names = (name for name, module in subnets[0].named_modules() if isinstance(module, nn.Linear))
        for layers in zip(*map(leaves, subnets), strict=True):
            if isinstance(layers[0], nn.Linear):
                linear = self._linear[next(names)] = _Linear(layers, is_first=not self._layers)
                self._layers.append(linear)
            elif not self._layers:
                self._front.append(layers[0])
            elif type(layers[0]) is nn.ReLU:
                self._layers.append(_ReLU(is_in_place=isinstance(self._layers[-1], _Linear)))
            else:
                self._layers.append(_Elementwise(layers[0]))
        self._tape: list[Any] = []

    def parameters(self) -> dict[str, Tensor]:
        every = [(name, kind, getattr(layer, kind)) for name, layer in self._linear.items() for kind in _KINDS]
        return {f"{name}.{kind}": tensor for name, kind, tensor in every if tensor is not None}

    def buffers(self) -> list[Tensor]:
        return []

    @torch.no_grad()
    def __call__(self, x: Tensor, *, is_own: bool = False) -> Tensor:
        is_stacked = is_own
        for module in self._front:
            if type(module) is nn.Dropout and not is_stacked:  # each drops by itself
                x, is_stacked = x.expand(len(self.members), *x.shape).contiguous(), True
            x = x.flatten(1 + is_stacked) if type(module) is nn.Flatten else module(x)
        if not is_stacked:
            x = x.expand(len(self.members), *x.shape)  # no copy
        x, self._tape = x.transpose(1, 2), []
        for layer in self._layers:
            x, kept = layer.forward(x)
            self._tape.append(kept)
        return x.transpose(1, 2)

    @torch.no_grad()
    def backward(self, outputs: Tensor, gradient: Tensor) -> None:
        gradient = gradient.transpose(1, 2)
        for layer in reversed(self._layers):
            gradient = layer.backward(self._tape.pop(), gradient)

    def states(self) -> list[State]:
        stacked = {f"{name}.weight": layer.weight for name, layer in self._linear.items()}
        for name, layer in self._linear.items():
            if layer.bias is not None:
                stacked[f"{name}.bias"] = layer.bias[:, :, 0]
        return states_of(stacked)


class _Layer(Protocol):
    """Of N networks; x is (N, features, batch)."""

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        """The outputs, and what `backward` needs of them."""

    def backward(self, kept: Any, gradient: Tensor) -> Tensor:
        """From the gradient at the outputs, that at x."""


class _Linear:
    """Weights (N, out, in) and biases (N, out, 1). The first one leaves out the gradient at x, which nobody needs.

    The factor of a part's inputs (see `scaled`) goes into the products, which take one for nothing.
    """

    def __init__(self, layers: Sequence[nn.Linear], *, is_first: bool) -> None:
        self.weight = torch.stack([stored(layer, "weight").detach() for layer in layers]).requires_grad_()
        self.bias: Tensor | None = None
        if layers[0].bias is not None:
            self.bias = torch.stack([layer.bias.detach() for layer in layers]).unsqueeze(2).requires_grad_()
        self._is_first, self._factor = is_first, float(factor_of(layers[0]))
        assert all(factor_of(layer) == self._factor for layer in layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.bias is not None:
            return torch.baddbmm(self.bias, self.weight, x, alpha=self._factor), x
        out = torch.bmm(self.weight, x)
        return out if self._factor == 1 else out.mul_(self._factor), x

    def backward(self, kept: Tensor, gradient: Tensor) -> Tensor:
        if self.bias is not None:
            self.bias.grad = torch.sum(gradient, 2, keepdim=True, out=self.bias.grad)
        if self._factor != 1:
            gradient = gradient * self._factor
        self.weight.grad = torch.bmm(gradient, kept.transpose(1, 2), out=self.weight.grad)
        return gradient if self._is_first else torch.bmm(self.weight.transpose(1, 2), gradient)


class _ReLU:
    """By far the most usual, so written out too; in place where nobody else needs x: what a product gave."""

    def __init__(self, *, is_in_place: bool) -> None:
        self._call = torch.relu_ if is_in_place else torch.relu

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self._call(x)
        return x, x

    def backward(self, kept: Tensor, gradient: Tensor) -> Tensor:
        return torch.ops.aten.threshold_backward(gradient, kept, 0)


class _Elementwise:
    """Any other: autograd, for this layer alone."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer, self._is_in_place = layer, getattr(layer, "inplace", False)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = self._layer(x.clone() if self._is_in_place else x)
        return y.detach(), (x, y)

    def backward(self, kept: tuple[Tensor, Tensor], gradient: Tensor) -> Tensor:
        x, y = kept
        return torch.autograd.grad(y, x, gradient)[0]


def is_perceptron(subnet: nn.Module) -> bool:
    """Whether it is a plain chain of linear layers and what may stand between them, all of it trained."""
    if type(subnet) is not nn.Sequential or not all(p.requires_grad for p in subnet.parameters()):
        return False
    seen_linear = False
    for layer in leaves(subnet):
        kind = plain_kind(layer)
        if not isinstance(factor_of(layer), float):  # of each input another: the products take one
            return False
        is_plain_flatten = type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1)
        is_front = is_plain_flatten and not seen_linear
        if kind is not nn.Linear and kind not in ELEMENTWISE and not is_front:
            return False
        seen_linear = seen_linear or kind is nn.Linear
    return seen_linear


def leaves(module: nn.Module) -> Iterator[Any]:
    """The layers of a (nested) Sequential, in order; a layer that is used twice comes twice."""
    if type(module) is nn.Sequential:
        for layer in module:
            yield from leaves(layer)
    else:
        yield module
