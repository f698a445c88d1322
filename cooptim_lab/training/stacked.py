"""N subnets trained as one batched program: their parameters are stacked, every operation runs once for all of them.

Subnets of the same architecture make one stack; whatever is different makes a stack of its own, so any mixture trains.
Four engines, from the fastest to the most general:

- `grouped`: perceptrons, one batched matrix product (`baddbmm`) per layer;
- `channels`: networks of convolutions, side by side in the channels of one (channels.py);
- `vmap`: any other module, by `torch.func`, its buffers (BatchNorm's statistics) stacked too;
- `separate`: one module after the other.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import cloudpickle
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .channels import ChannelStack, PlainChannelStack
from .units import clone, state_of

ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid,
    nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Identity, nn.Dropout,
)  # fmt: skip
"""Layers that treat every number alike, so that they run on stacked subnets as they are."""

MOST = 16
"""Subnets in one stack: with more, what a step works on no longer fits a core's cache (measured: 256 perceptrons of
width 64 in one stack took 1.5 times as long for each as 16 did)."""
TOLERANCE = 1e-4
"""By so much may a stack's outputs and buffers differ from those of its modules after one batch."""


class Stack(Protocol):
    """Some subnets that train as one program. `members` are their places among all subnets."""

    engine: str
    members: list[int]

    def parameters(self) -> list[Tensor]:
        """What the optimizer updates."""

    def __call__(self, x: Tensor, *, is_own: bool = False) -> Tensor:
        """Outputs (members, batch, ...) of a batch (batch, ...); `is_own`: of one of each (members, batch, ...)."""

    def unstack(self) -> list[nn.Module]:
        """The subnets as plain modules again, in the order of `members`."""

    def like(self, subnets: Sequence[nn.Module]) -> Stack:
        """Another stack of the same kind, of these subnets."""


class _BatchedLinear(torch.autograd.Function):
    """x (N, batch, in) to x @ weight + bias, whose gradients go straight to where the optimizer reads them.

    Autograd would make them elsewhere and add them to what `zero_grad` has cleared; a layer is used once in a step.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.gradients = weight.grad, None if bias is None else bias.grad
        return torch.bmm(x, weight) if bias is None else torch.baddbmm(bias, x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, None, None]:
        (out,), (x, weight), (of_weight, of_bias) = gradients, ctx.saved_tensors, ctx.gradients
        torch.bmm(x.transpose(1, 2), out, out=of_weight)
        if of_bias is not None:
            torch.sum(out, 1, keepdim=True, out=of_bias)
        return torch.bmm(out, weight.transpose(1, 2)) if ctx.needs_input_grad[0] else None, None, None


class GroupedStack:
    """Perceptrons of one architecture; weights are (N, in, out), so a layer is one batched matrix product."""

    engine = "grouped"

    def __init__(self, subnets: Sequence[nn.Module], members: list[int]) -> None:
        self.members, self._template = members, subnets[0]
        self._layers: list[Any] = []  # a module as it is, or (weight, bias or None) stacked
        for layers in zip(*map(leaves, subnets), strict=True):
            if not isinstance(layers[0], nn.Linear):
                self._layers.append(layers[0])
                continue
            weight = torch.stack([layer.weight.detach().T for layer in layers]).contiguous().requires_grad_()
            bias = None
            if layers[0].bias is not None:
                bias = torch.stack([layer.bias.detach() for layer in layers]).unsqueeze(1)  # (N, 1, out)
                bias.requires_grad_()
            self._layers.append((weight, bias))

    def parameters(self) -> list[Tensor]:
        return [t for pair in self._layers if isinstance(pair, tuple) for t in pair if t is not None]

    def __call__(self, x: Tensor, *, is_own: bool = False) -> Tensor:
        if is_own:  # a Flatten in front must leave the first two dimensions
            x = x.flatten(2)
        is_stacked = is_own
        for layer in self._layers:
            if type(layer) is nn.ReLU and is_stacked and not x.is_leaf:
                x = torch.relu_(x)  # nobody else needs what a product gave
            elif not isinstance(layer, tuple):
                x = x if is_stacked and type(layer) is nn.Flatten else layer(x)
            else:
                weight, bias = layer
                if not is_stacked:
                    x, is_stacked = x.expand(len(self.members), *x.shape), True  # (N, batch, in), no copy
                if torch.is_grad_enabled() and weight.grad is not None:
                    x = _BatchedLinear.apply(x, weight, bias)
                else:
                    x = torch.bmm(x, weight) if bias is None else torch.baddbmm(bias, x, weight)
        return x

    def unstack(self) -> list[nn.Module]:
        subnets: list[nn.Module] = []
        for n in range(len(self.members)):
            subnet = clone(self._template)
            with torch.no_grad():
                for layer, stacked in zip(leaves(subnet), self._layers, strict=True):
                    if isinstance(stacked, tuple):
                        layer.weight.copy_(stacked[0][n].T)
                        if stacked[1] is not None:
                            layer.bias.copy_(stacked[1][n, 0])
            subnets.append(subnet)
        return subnets

    def like(self, subnets: Sequence[nn.Module]) -> Stack:
        return type(self)(subnets, self.members)


class VmapStack:
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
        subnets = []
        for n in range(len(self.members)):
            subnet = clone(self._template)
            with torch.no_grad():
                for name, value in state_of(subnet).items():
                    value.copy_((self._parameters if name in self._parameters else self._buffers)[name][n])
            subnets.append(subnet)
        return subnets

    def like(self, subnets: Sequence[nn.Module]) -> Stack:
        return type(self)(subnets, self.members)


class SingleStack:
    """One subnet, trained as the module that it is."""

    engine = "separate"

    def __init__(self, subnets: Sequence[nn.Module], members: list[int]) -> None:
        (self._subnet,), self.members = subnets, members

    def parameters(self) -> list[Tensor]:
        return [p for p in self._subnet.parameters() if p.requires_grad]

    def __call__(self, x: Tensor, *, is_own: bool = False) -> Tensor:
        return self._subnet(x[0] if is_own else x).unsqueeze(0)

    def unstack(self) -> list[nn.Module]:
        return [clone(self._subnet)]

    def like(self, subnets: Sequence[nn.Module]) -> Stack:
        return type(self)(subnets, self.members)


def stack(
    subnets: Sequence[nn.Module], *, separate: bool = False, sample: Tensor | None = None, is_own: bool = False
) -> list[Stack]:
    """Gather subnets of one architecture into stacks (see the module's docstring). The subnets are not changed.

    Parameters
    ----------
    separate
        Each by itself.
    sample
        A batch (batch, ...): a stack that does not do with it what its modules do is not made.
    is_own
        Whether each subnet is to get a batch of its own.
    """
    groups: dict[object, list[int]] = {}
    for i, subnet in enumerate(subnets):
        groups.setdefault(i if separate else _signature(subnet), []).append(i)
    stacks: list[Stack] = []
    for members in itertools.chain.from_iterable(map(_batches, groups.values())):
        chosen = [subnets[i] for i in members]
        kinds: list[type[Any]] = [GroupedStack] if _is_perceptron(chosen[0]) else [VmapStack]
        if not (_is_perceptron(chosen[0]) or is_own):
            kinds = [ChannelStack, PlainChannelStack, *kinds]
        kind = next((kind for kind in kinds if len(members) > 1 and _can_run(kind, chosen, sample)), None)
        if kind is None:
            stacks += [SingleStack([copy.deepcopy(subnets[i])], [i]) for i in members]
        else:
            stacks.append(kind(chosen, members))
    return stacks


def _batches(members: list[int]) -> list[list[int]]:
    """As few parts of at most `MOST` as there can be, of about the same size."""
    count = -(-len(members) // MOST)
    bounds = [len(members) * i // count for i in range(count + 1)]
    return [members[start:end] for start, end in itertools.pairwise(bounds)]


def leaves(module: nn.Module) -> Iterator[Any]:
    """The layers of a (nested) Sequential, in order; a layer that is used twice comes twice."""
    if type(module) is nn.Sequential:
        for layer in module:
            yield from leaves(layer)
    else:
        yield module


def _can_run(kind: type[Any], subnets: Sequence[nn.Module], sample: Tensor | None) -> bool:
    """Whether a stack does as its modules do: not where one branches on values, replaces buffers or mixes channels."""
    if sample is None:
        return not issubclass(kind, ChannelStack)
    alone = [copy.deepcopy(subnets[0]), copy.deepcopy(subnets[-1])]
    with torch.no_grad(), torch.random.fork_rng():
        try:
            together = kind(alone, [0, 1])
            together(sample)
        except Exception:  # noqa: BLE001 - what a stack cannot follow may raise anything
            return False
        for module, stacked in zip(alone, together.unstack(), strict=True):
            module(sample)
            buffers = dict(stacked.named_buffers())
            if not all(_is_close(b, buffers[name]) for name, b in module.named_buffers()):
                return False
        return not issubclass(kind, ChannelStack) or _agrees(kind, [module.eval() for module in alone], sample)


def _agrees(kind: type[Any], modules: Sequence[nn.Module], sample: Tensor) -> bool:
    """Whether channels of one subnet reach the outputs of that one alone; without dropout, which would hide it."""
    outputs = kind(modules, [0, 1])(sample)
    return all(_is_close(module(sample), output) for module, output in zip(modules, outputs, strict=True))


def _is_close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE)


def _signature(subnet: nn.Module) -> object:
    """Equal for subnets that may share a program: same layers, shapes and settings, only other weights.

    Hooks, tied parameters and settings that cannot be compared make a subnet equal to none but itself.
    """
    if len(list(subnet.parameters())) < len(list(subnet.named_parameters(remove_duplicate=False))):
        return id(subnet)
    settings = []
    for module in subnet.modules():
        hooks = [value for name, value in vars(module).items() if name.endswith("_hooks") and value]
        if hooks:
            return id(subnet)
        settings.append((type(module), {n: v for n, v in vars(module).items() if n not in _MODULE_STATE}))
    try:
        compared = cloudpickle.dumps(settings)
    except Exception:  # noqa: BLE001 - a user's setting may refuse in any way; then it is not shared
        return id(subnet)
    trained = {name for name, p in subnet.named_parameters() if p.requires_grad}
    shapes = tuple((name, tuple(t.shape), t.dtype, name in trained) for name, t in state_of(subnet).items())
    return repr(subnet), shapes, compared


_MODULE_STATE = frozenset(vars(nn.Module()))
"""What every module has: its parameters, hooks and the like, which are compared by themselves."""


def _is_perceptron(subnet: nn.Module) -> bool:
    if type(subnet) is not nn.Sequential or not all(p.requires_grad for p in subnet.parameters()):
        return False
    seen_linear = False
    for layer in leaves(subnet):
        is_front = type(layer) is nn.Flatten and not seen_linear
        if type(layer) is not nn.Linear and type(layer) not in ELEMENTWISE and not is_front:
            return False
        seen_linear = seen_linear or type(layer) is nn.Linear
    return seen_linear
