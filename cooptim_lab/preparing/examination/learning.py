"""Does a step of training train what is to be trained, and nothing else? One is made, on a copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...data.values import first_line
from ...errors import InputError
from ...task import Task
from ..building import build_optimizer, trained
from ..modes import enter_training, has_modes
from ..scoring import Loss

FEW = 3
"""Names that a line tells."""


@dataclass(frozen=True)
class Learned:
    """What one step did.

    Attributes
    ----------
    unused
        Names of parameters that got no gradient.
    sparse
        Of those that got a sparse one.
    replaced
        Of those whose memory the network, or a hook of the optimizer, has exchanged (`p.data = ...`).
    reshaped
        Of buffers that have another shape than before, or were not there.
    left_out
        Of parameters that the optimizer does not hold.
    is_still
        Whether no number has changed.
    has_modes
        Whether the optimizer holds other weights while it trains than when it is evaluated.
    """

    unused: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    is_still: bool = False
    has_modes: bool = False


def see_learning(
    task: Task, network: nn.Module, loss: Loss, x: Tensor, y: Tensor, shapes: Mapping[str, object]
) -> Learned:
    """Make a step with these rows; the network is changed by it. `shapes` of its buffers before it was asked anything.

    Raises
    ------
    InputError
        When nothing can be trained: no gradient reaches a parameter, the optimizer has none of them, or its rate is 0.
    """
    named = trained(network)
    optimizer = build_optimizer(task, [p for _, p in named], [name for name, _ in named])
    rates = [group["lr"] for group in optimizer.param_groups if "lr" in group]
    if task.scheduler is None and rates and not any(bool(rate) for rate in rates):
        raise InputError("optimizer has lr = 0: nothing would be trained; give a rate above 0")
    enter_training(optimizer)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    before = {name: p.detach().clone() for name, p in named}
    places = {name: p.data_ptr() for name, p in named}
    value = loss(network(x.clone()), y)
    if value.requires_grad:
        value.backward()
    unused = tuple(name for name, p in named if p.grad is None)
    if len(unused) == len(named):
        raise InputError(
            "no parameter gets a gradient: the outputs do not depend on the parameters that are to be trained "
            "(detach() or no_grad() in forward, or a forward that calls another network than its own)"
        )
    sparse = tuple(name for name, p in named if p.grad is not None and p.grad.is_sparse)
    try:
        optimizer.step()
    except Exception as error:
        raise InputError(f"the optimizer cannot make a step: {first_line(error)}") from error
    replaced = tuple(name for name, p in named if p.data_ptr() != places[name])
    return Learned(
        unused,
        sparse,
        replaced,
        tuple(name for name, shape in shapes_of(network).items() if shapes.get(name) != shape),
        tuple(name for name, p in named if id(p) not in held),
        all(torch.equal(p.detach(), before[name]) for name, p in named if p.shape == before[name].shape),
        has_modes(optimizer),
    )


def shapes_of(network: nn.Module) -> Mapping[str, object]:
    """Of all buffers, those that are None too."""
    return {
        f"{prefix}.{name}".lstrip("."): None if buffer is None else (tuple(buffer.shape), buffer.dtype)
        for prefix, module in network.named_modules()
        for name, buffer in module._buffers.items()
    }


def findings(learned: Learned) -> list[str]:
    """What a reader should know of it, a line each."""
    lines = []
    if learned.unused:
        lines.append(f"{_some(learned.unused)} got no gradient in a step that was tried: not trained by such rows")
    if learned.left_out:
        lines.append(f"the optimizer does not hold {_some(learned.left_out)}: not trained")
    if learned.is_still:
        lines.append("a step that was tried changed no parameter")
    return lines


def refuse_what_lies_flat(learned: Learned, way: str) -> None:
    """Of ways that lay parameters end to end, and keep them there: refuse what would not stay.

    Raises
    ------
    InputError
    """
    if learned.replaced:
        raise InputError(
            f"{way} keeps parameters where they are, and the model, or a hook, exchanges {_some(learned.replaced)} "
            "(p.data = ...): change them in place, e.g. p.data.clamp_(-1, 1)"
        )
    if learned.sparse:
        raise InputError(
            f"{way} adds up whole gradients, and {_some(learned.sparse)} gets a sparse one: leave sparse=True out"
        )
    if learned.reshaped:
        raise InputError(
            f"{way} keeps buffers as they are, and the model gives {_some(learned.reshaped)} another shape while it "
            "trains: register it with the shape that it will have"
        )


def refuse_modes(learned: Learned, way: str) -> None:
    """Of ways that send weights: refuse an optimizer that would send others than it is evaluated by.

    Raises
    ------
    InputError
    """
    if learned.has_modes:
        raise InputError(
            f"{way} hands weights from rank to rank, and this optimizer holds others while it trains than it evaluates "
            "(it has train() and eval()): train the network as it is, or give another optimizer"
        )


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more
