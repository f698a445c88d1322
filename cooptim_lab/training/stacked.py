"""N subnets trained as one batched program: their parameters are stacked, every operation runs once for all of them.

Subnets of the same architecture make one stack; whatever is different makes a stack of its own, so any mixture trains.
Three engines, from the fastest to the most general:

- `grouped`: perceptrons, one batched matrix product (`baddbmm`) per layer;
- `vmap`: any module without buffers, by `torch.func`;
- `separate`: one module after the other (buffers such as BatchNorm's, or nothing to share).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import cloudpickle
import torch
from torch import Tensor, nn

from .loop import Step
from .prepare import IGNORED_LABEL
from .split import is_elementwise_or_front

STACKABLE_OPTIMIZERS = (
    torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax,
    torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.Rprop, torch.optim.ASGD,
)  # fmt: skip
"""Optimizers that update every number by itself, so that one over stacked parameters is N separate ones."""


class Stack(Protocol):
    """Some subnets that train as one program. `members` are their places among all subnets."""

    engine: str
    members: list[int]

    def parameters(self) -> list[Tensor]:
        """What the optimizer updates."""

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs (members, batch, ...) of a batch (batch, ...)."""

    def unstack(self) -> list[nn.Module]:
        """The subnets as plain modules again, in the order of `members`."""


class GroupedStack:
    """Perceptrons of one architecture; weights are (N, in, out), so a layer is one batched matrix product."""

    engine = "grouped"

    def __init__(self, subnets: Sequence[nn.Sequential], members: list[int]) -> None:
        self.members, self._template = members, subnets[0]
        self._layers: list[Any] = []  # a module as it is, or (weight, bias or None) stacked
        for layers in zip(*subnets, strict=True):
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

    def __call__(self, x: Tensor) -> Tensor:
        is_stacked = False
        for layer in self._layers:
            if not isinstance(layer, tuple):
                x = layer(x)  # elementwise, or a Flatten in front, where x is still the plain batch
                continue
            weight, bias = layer
            if not is_stacked:
                x, is_stacked = x.expand(len(self.members), *x.shape), True  # (N, batch, in), no copy
            x = torch.bmm(x, weight) if bias is None else torch.baddbmm(bias, x, weight)
        return x

    def unstack(self) -> list[nn.Module]:
        subnets: list[nn.Module] = []
        for n in range(len(self.members)):
            subnet = copy.deepcopy(self._template)
            with torch.no_grad():
                layers: list[Any] = list(subnet)
                for layer, stacked in zip(layers, self._layers, strict=True):
                    if isinstance(stacked, tuple):
                        layer.weight.copy_(stacked[0][n].T)
                        if stacked[1] is not None:
                            layer.bias.copy_(stacked[1][n, 0])
            subnets.append(subnet)
        return subnets


class VmapStack:
    """Modules of one architecture without buffers, by `torch.func.functional_call` under `vmap`."""

    engine = "vmap"

    def __init__(self, subnets: Sequence[nn.Module], members: list[int]) -> None:
        self.members, self._template = members, subnets[0]
        stacked, _ = torch.func.stack_module_state(list(subnets))
        self._parameters = {
            name: value.detach().requires_grad_(dict(subnets[0].named_parameters())[name].requires_grad)
            for name, value in stacked.items()
        }

        def call(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(self._template, parameters, (x,))

        self._call = torch.vmap(call, in_dims=(0, None), randomness="different")

    def parameters(self) -> list[Tensor]:
        return [p for p in self._parameters.values() if p.requires_grad]

    def __call__(self, x: Tensor) -> Tensor:
        return self._call(self._parameters, x)

    def unstack(self) -> list[nn.Module]:
        subnets = []
        for n in range(len(self.members)):
            subnet = copy.deepcopy(self._template)
            subnet.load_state_dict({name: value[n].detach() for name, value in self._parameters.items()}, strict=False)
            subnets.append(subnet)
        return subnets


class SingleStack:
    """One subnet, trained as the module that it is."""

    engine = "separate"

    def __init__(self, subnets: Sequence[nn.Module], members: list[int]) -> None:
        (self._subnet,), self.members = subnets, members

    def parameters(self) -> list[Tensor]:
        return [p for p in self._subnet.parameters() if p.requires_grad]

    def __call__(self, x: Tensor) -> Tensor:
        return self._subnet(x).unsqueeze(0)

    def unstack(self) -> list[nn.Module]:
        return [self._subnet]


def stack(subnets: Sequence[nn.Module], *, separate: bool = False) -> list[Stack]:
    """Gather subnets of one architecture into stacks; `separate` keeps each by itself (see the module's docstring)."""
    groups: dict[object, list[int]] = {}
    for i, subnet in enumerate(subnets):
        groups.setdefault(i if separate else _signature(subnet), []).append(i)
    stacks: list[Stack] = []
    for members in groups.values():
        chosen = [subnets[i] for i in members]
        kind = SingleStack if len(members) == 1 else GroupedStack if _is_perceptron(chosen[0]) else VmapStack
        stacks.append(kind(chosen, members))  # type: ignore[arg-type]
    return stacks


def can_run(stacks: Sequence[Stack], sample: Tensor) -> bool:
    """Whether every stack takes a batch: `vmap` cannot follow a module that branches on its values, say."""
    try:
        with torch.no_grad():
            for each in stacks:
                each(sample)
    except Exception:  # noqa: BLE001 - what vmap cannot follow may raise anything
        return False
    return True


def stacked_step(
    stacks: Sequence[Stack],
    make_optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer],
    loss: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
) -> Step[Tensor]:
    """One step of all subnets. The sum of their losses is differentiated, so each subnet gets its own gradient."""
    optimizers = [make_optimizer(each.parameters()) for each in stacks]
    places = torch.tensor([member for each in stacks for member in each.members]).argsort()

    def step(rows: Tensor) -> Tensor:
        inputs, targets = x[rows], y[rows]
        losses = []
        for each, optimizer in zip(stacks, optimizers, strict=True):
            optimizer.zero_grad()
            values = per_subnet_loss(loss, each(inputs), targets)
            values.sum().backward()
            optimizer.step()
            losses.append(values.detach())
        return torch.cat(losses)[places]

    return step


def per_subnet_loss(loss: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, targets: Tensor) -> Tensor:
    """Losses (N,) of outputs (N, batch, ...) on the same targets; torch's defaults in one call, others in a loop."""
    if loss is nn.functional.cross_entropy and outputs.dim() == 3 and targets.dim() == 1:
        count, batch = outputs.shape[:2]
        each = loss(outputs.flatten(0, 1), targets.repeat(count), reduction="none")
        return each.view(count, batch).sum(1) / (targets != IGNORED_LABEL).sum()
    if loss is nn.functional.mse_loss:
        return (outputs - targets).square().flatten(1).mean(1)
    return torch.stack([loss(output, targets) for output in outputs])


def _signature(subnet: nn.Module) -> object:
    """Equal for subnets that may share a program: same layers, shapes and settings, only other weights.

    Buffers, hooks and settings that cannot be compared make a subnet equal to none but itself.
    """
    is_tied = len(list(subnet.parameters())) < len(list(subnet.named_parameters(remove_duplicate=False)))
    if is_tied or any(True for _ in subnet.buffers()):
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
    shapes = tuple((name, tuple(p.shape), p.dtype, p.requires_grad) for name, p in subnet.named_parameters())
    return repr(subnet), shapes, compared


_MODULE_STATE = frozenset(vars(nn.Module()))
"""What every module has: its parameters, hooks and the like, which are compared by themselves."""


def _is_perceptron(subnet: nn.Module) -> bool:
    if type(subnet) is not nn.Sequential or not all(p.requires_grad for p in subnet.parameters()):
        return False
    seen_linear = False
    for layer in subnet:
        if type(layer) is not nn.Linear and not is_elementwise_or_front(layer, is_in_front=not seen_linear):
            return False
        seen_linear = seen_linear or type(layer) is nn.Linear
    return seen_linear
