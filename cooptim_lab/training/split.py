"""One network becomes N small ones."""

from __future__ import annotations

import copy

import torch
from torch import nn

from ..errors import InputError
from ..task import Task
from .prepare import build_model
from .seeds import derive

ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid,
    nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Identity, nn.Dropout,
)  # fmt: skip
"""Layers that treat every unit alike, so that they need no narrowing and can run on stacked subnets as they are."""


def make_subnets(task: Task, subnets: int, seed: int, which: range | None = None) -> list[nn.Module]:
    """The sub-networks `which` (default: all) of N, freshly initialised.

    Subnet i depends on the seed and on i alone, never on how many ranks share the work.

    Raises
    ------
    InputError
        When the model cannot be narrowed, or `subnet(i)` does not return a module.
    """
    model = build_model(task.model, seed)
    made = []
    for i in which if which is not None else range(subnets):
        torch.manual_seed(derive(seed, i))
        if task.subnet is None:
            made.append(narrow(model, subnets, i))
            continue
        built = task.subnet(i)
        if not isinstance(built, nn.Module):
            raise InputError(f"subnet({i}) returned a {type(built).__name__}: it must return an nn.Module")
        made.append(built.train())
    return made


def narrow(model: nn.Module, subnets: int, i: int) -> nn.Module:
    """Subnet `i` of N: the same Sequential perceptron with every hidden layer 1/N as wide, freshly initialised.

    A width that N does not divide is spread as evenly as it goes: the first (width mod N) subnets get one unit more, so
    the subnets together have as many hidden units as the model.

    Raises
    ------
    InputError
        When a layer cannot be narrowed (named, with `subnet(i)` offered), or N exceeds the narrowest hidden layer.
    """
    layers = _perceptron_layers(model)
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    widths = [layer.out_features for layer in linear[:-1]]
    if not widths and subnets > 1:
        raise InputError("the model has no hidden layer to narrow: define subnet(i) in the task")
    if widths and subnets > min(widths):
        raise InputError(
            f"subnets = {subnets}: the narrowest hidden layer has {min(widths)} units; give at most {min(widths)}"
        )

    narrowed: list[nn.Module] = []
    width_in = linear[0].in_features
    for layer in layers:
        if not isinstance(layer, nn.Linear):
            narrowed.append(copy.deepcopy(layer))
            continue
        width, spare = divmod(layer.out_features, subnets)
        width_out = layer.out_features if layer is linear[-1] else width + (i < spare)
        narrowed.append(nn.Linear(width_in, width_out, bias=layer.bias is not None, dtype=layer.weight.dtype))
        width_in = width_out
    return nn.Sequential(*narrowed)


def is_elementwise_or_front(layer: nn.Module, *, is_in_front: bool) -> bool:
    """Whether a layer of a perceptron needs no narrowing: elementwise, or a Flatten in front of the first Linear."""
    return type(layer) in ELEMENTWISE or (is_in_front and type(layer) is nn.Flatten)


def _perceptron_layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a (nested) Sequential perceptron, in order; anything else is refused by name."""
    if type(model) is not nn.Sequential:
        raise InputError(
            f"the model is a {type(model).__name__}, and only a Sequential perceptron is narrowed automatically: "
            "define subnet(i) in the task"
        )
    layers: list[nn.Module] = []
    for name, layer in model.named_modules(remove_duplicate=False):
        if type(layer) is nn.Sequential:
            continue
        is_in_front = not any(isinstance(before, nn.Linear) for before in layers)
        if not (type(layer) is nn.Linear or is_elementwise_or_front(layer, is_in_front=is_in_front)):
            raise InputError(
                f"layer {name} is a {type(layer).__name__}, which cannot be narrowed automatically: "
                "define subnet(i) in the task"
            )
        layers.append(layer)
    return layers
