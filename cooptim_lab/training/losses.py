"""Losses of N subnets at once: each one's own, and the gradient of their sum at the outputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from .prepare import IGNORED_LABEL

Loss = Callable[[Tensor, Tensor], Tensor]


def plain_loss(loss: Loss) -> Loss:
    """torch's function in place of its module where that has no settings of its own: the same in one call for all."""
    match loss:
        case nn.CrossEntropyLoss(weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
            return functional.cross_entropy
        case nn.MSELoss(reduction="mean"):
            return functional.mse_loss
    return loss


def losses_and_gradient(
    loss: Loss, outputs: Tensor, targets: Tensor, *, is_own: bool = False, none_ignored: bool = False
) -> tuple[Tensor, Tensor]:
    """Losses (N,) of outputs (N, batch, ...), and the gradient of their sum at the outputs.

    Parameters
    ----------
    targets
        (batch, ...), or with `is_own` (N, batch, ...).
    none_ignored
        That no target is the label that cross-entropy leaves out.
    """
    is_usual = loss is functional.cross_entropy and none_ignored
    if is_usual and len(outputs) > 1 and outputs.dim() == 3 and targets.dim() == 1 + is_own:
        return _cross_entropy(outputs.detach(), targets)
    outputs = outputs.detach().requires_grad_()
    losses = per_subnet_loss(loss, outputs, targets, is_own=is_own)
    (gradient,) = torch.autograd.grad(losses.sum(), outputs)
    return losses.detach(), gradient


def _cross_entropy(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Of logits (N, batch, classes) on classes (batch,) or (N, batch): the gradient is (softmax − one-hot) / batch.

    With the batch along the last axis: a softmax over ten neighbours takes torch 15 times as long on a CPU.
    """
    logs = outputs.transpose(1, 2).log_softmax(1)
    chosen = targets.expand(len(outputs), -1).unsqueeze(1)  # (N, 1, batch)
    losses = -logs.gather(1, chosen)[:, 0].mean(1)
    weight = 1 / outputs.shape[1]
    gradient = logs.exp_().mul_(weight).scatter_add_(1, chosen, logs.new_full((1, 1, 1), -weight).expand_as(chosen))
    return losses, gradient.transpose(1, 2)


def per_subnet_loss(loss: Loss, outputs: Tensor, targets: Tensor, *, is_own: bool = False) -> Tensor:
    """Losses (N,) of outputs (N, batch, ...) on targets (batch, ...), or (N, batch, ...) if each has its own.

    torch's defaults take one call for all subnets; others are called for one after the other. Of one subnet it is what
    the plain loop computes, bit for bit.
    """
    count = len(outputs)
    each_target = targets if is_own else targets.expand(count, *targets.shape)
    if count > 1 and loss is functional.cross_entropy and outputs.dim() == 3 and each_target.dim() == 2:
        values = loss(outputs.flatten(0, 1), each_target.flatten(), reduction="none").view(count, -1)
        return values.sum(1) / (each_target != IGNORED_LABEL).sum(1)
    if count > 1 and loss is functional.mse_loss:
        return (outputs - each_target).square().flatten(1).mean(1)
    return torch.stack([loss(output, target) for output, target in zip(outputs, each_target, strict=True)])
