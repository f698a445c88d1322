"""Does the loss depend on anything but outputs and labels? Nothing of it would be trained."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...errors import InputError
from ..scoring import Loss


def see_alone(loss: Loss, outputs: Tensor, y: Tensor) -> None:
    """See that a loss has no parameters to train, and reaches no tensor that wants a gradient but the outputs.

    Raises
    ------
    InputError
    """
    own = [p for p in loss.parameters() if p.requires_grad] if isinstance(loss, nn.Module) else []
    if own:
        raise InputError(
            f"loss has {len(own)} parameters of its own, which nothing would train: make them the model's, and give "
            "what they do to the loss with the outputs"
        )
    given = outputs.detach().requires_grad_()
    others = leaves(loss(given + 0, y)) - {id(given)}
    if others:
        raise InputError(
            f"loss depends on {len(others)} tensors besides outputs and labels (weights of the model, say), but what "
            "is trained is a copy of the model: for a penalty on weights use the optimizer's weight_decay"
        )


def leaves(value: Tensor) -> set[int]:
    """Ids of the tensors that would get a gradient from a value's."""
    found: set[int] = set()
    seen: set[Any] = set()
    waiting = [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting += [following for following, _ in node.next_functions]
    return found
