"""Losses of N subnets at once: each one's own, and the gradient of their sum at the outputs.

What made the outputs is not known here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...preparing.scoring import IGNORED_LABEL

Loss = Callable[[Tensor, Tensor], Tensor]


def plain_loss(loss: Loss) -> Loss:
    """torch's function in place of its module where that has no settings of its own: the same in one call for all."""
    match loss:
        case nn.CrossEntropyLoss(weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
            plain: Loss = functional.cross_entropy
        case nn.MSELoss(reduction="mean"):
            plain = functional.mse_loss
        case _:
            return loss
    return plain if type(loss) in (nn.CrossEntropyLoss, nn.MSELoss) else loss


def losses_and_gradient(
    loss: Loss, outputs: Tensor, targets: Tensor, *, is_own: bool = False, none_ignored: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Losses (N,) of outputs (N, batch, ...), and the gradient of their sum at the outputs; None if it is of none.

    Parameters
    ----------
    targets
        (batch, ...), or with `is_own` (N, batch, ...).
    none_ignored
        That no target is the label that cross-entropy leaves out.
    """
    each_target = targets if is_own else targets.expand(len(outputs), *targets.shape)
    if none_ignored and _are_plain_classes(loss, outputs, each_target):
        return _cross_entropy(outputs.detach(), each_target)
    if not _takes_all(loss, outputs, each_target):
        return _one_after_the_other(loss, outputs.detach(), each_target)
    outputs = outputs.detach().requires_grad_()
    losses = per_subnet_loss(loss, outputs, each_target)
    (gradient,) = torch.autograd.grad(losses.sum(), outputs)
    return losses.detach(), gradient


def _takes_all(loss: Loss, outputs: Tensor, targets: Tensor) -> bool:
    """Whether one call computes the losses of all."""
    is_squares = loss is functional.mse_loss and len(outputs) > 1 and outputs.shape == targets.shape
    return is_squares or _are_plain_classes(loss, outputs, targets)


def _one_after_the_other(loss: Loss, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor | None]:
    each = [output.detach().requires_grad_() for output in outputs]
    values = [loss(output, target) for output, target in zip(each, targets, strict=True)]
    losses = torch.stack([value.detach() for value in values])
    gradients = torch.autograd.grad(values, each, allow_unused=True)
    known = [gradient for gradient in gradients if gradient is not None]
    if not known:
        return losses, None
    if len(known) < len(each):
        # One that gets no gradient is not to be touched, by momentum or decay; one update for all would.
        raise RuntimeError("the loss of some is a constant in this batch")
    return losses, torch.stack(known)


def _are_plain_classes(loss: Loss, outputs: Tensor, targets: Tensor) -> bool:
    return loss is functional.cross_entropy and len(outputs) > 1 and outputs.dim() == 3 and targets.dim() == 2


def _cross_entropy(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Of logits (N, batch, classes) on classes (N, batch): the gradient is (softmax − one-hot) / batch.

    With the batch along the last axis: a softmax over ten neighbours takes torch 15 times as long on a CPU.
    """
    logs = outputs.transpose(1, 2).log_softmax(1)
    chosen = targets.unsqueeze(1)  # (N, 1, batch)
    losses = -logs.gather(1, chosen)[:, 0].mean(1)
    weight = 1 / outputs.shape[1]
    gradient = logs.exp_().mul_(weight).scatter_add_(1, chosen, logs.new_full((1, 1, 1), -weight).expand_as(chosen))
    return losses, gradient.transpose(1, 2)


def per_subnet_loss(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """Losses (N,) of outputs (N, batch, ...) on targets (N, batch, ...).

    torch's defaults take one call for all subnets; others are called for one after the other. Of one subnet it is what
    the plain loop computes, bit for bit.
    """
    if _are_plain_classes(loss, outputs, targets):
        values = functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
        return values.view(len(outputs), -1).sum(1) / (targets != IGNORED_LABEL).sum(1)
    if _takes_all(loss, outputs, targets):
        return (outputs - targets).square().flatten(1).mean(1)
    return torch.stack([loss(output, target) for output, target in zip(outputs, targets, strict=True)])
