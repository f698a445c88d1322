"""One training step of stacked subnets: losses of each, one backward pass, one optimizer over flat parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .loop import Step
from .optimizers import use_fused
from .prepare import IGNORED_LABEL
from .stacked import Stack

MakeOptimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]
Loss = Callable[[Tensor, Tensor], Tensor]


class FlatOptimizer:
    """An optimizer over all parameters of a stack as one tensor: one update in place of one per parameter.

    The parameters become views of it, and their gradients views of its gradient, so nothing is copied.
    """

    def __init__(self, parameters: Sequence[Tensor], make: MakeOptimizer) -> None:
        self._flats = []
        for dtype in dict.fromkeys(p.dtype for p in parameters):
            same = [p for p in parameters if p.dtype == dtype]
            flat = torch.cat([p.detach().flatten() for p in same]).requires_grad_()
            flat.grad = torch.zeros_like(flat)
            sizes = [p.numel() for p in same]
            pairs = zip(flat.detach().split(sizes), flat.grad.split(sizes), strict=True)
            for p, (value, grad) in zip(same, pairs, strict=True):
                p.data, p.grad = value.view_as(p), grad.view_as(p)
            self._flats.append(flat)
        self.optimizer = make(self._flats)
        use_fused(self.optimizer)
        for group in self.optimizer.param_groups:
            if "capturable" in group and self._flats[0].is_cuda:
                group["capturable"] = True  # its count of steps then lives on the GPU too

    def zero_grad(self) -> None:
        for flat in self._flats:
            assert flat.grad is not None
            flat.grad.zero_()

    def step(self) -> None:
        self.optimizer.step()


def stacked_step(
    stacks: Sequence[Stack],
    make_optimizer: MakeOptimizer,
    loss: Loss,
    x: Tensor,
    y: Tensor,
    *,
    is_elementwise: bool = True,
) -> Step[Tensor | Sequence[Tensor]]:
    """One step of all subnets, on rows (batch,) for all, or on rows (subnets, batch) of each one's own; losses (N,).

    Of several steps, given as a sequence, each stack makes all before the next one begins, so that its parameters and
    what the optimizer remembers stay in a core's cache; losses (N, steps). Subnets know nothing of each other, so it
    is the same training.

    The sum of their losses is differentiated, so each subnet gets its own gradient, whatever the others' are.
    `is_elementwise` says whether the optimizer may update parameters laid end to end.
    """
    # One network by itself is trained as the plain loop does it, bit for bit.
    is_elementwise = is_elementwise and (len(stacks) > 1 or stacks[0].engine != "separate")
    optimizers = [
        FlatOptimizer(each.parameters(), make_optimizer) if is_elementwise else make_optimizer(each.parameters())
        for each in stacks
    ]
    places = torch.tensor([member for each in stacks for member in each.members], device=x.device).argsort()
    members = [torch.tensor(each.members, device=x.device) for each in stacks]
    loss = plain_loss(loss)
    if loss is nn.functional.cross_entropy and not (y == IGNORED_LABEL).any():
        loss = class_first_cross_entropy

    def one(each: Stack, own: Tensor, optimizer: Any, rows: Tensor) -> Tensor:
        is_own = rows.dim() == 2
        chosen = rows[own] if is_own else rows
        if each.engine != "grouped":  # which overwrites its gradients
            optimizer.zero_grad()
        values = per_subnet_loss(loss, each(x[chosen], is_own=is_own), y[chosen], is_own=is_own)
        values.sum().backward()
        optimizer.step()
        return values.detach()

    def step(rows: Tensor | Sequence[Tensor]) -> Tensor:
        block = [rows] if isinstance(rows, Tensor) else rows
        losses = [
            torch.stack([one(each, own, optimizer, rows) for rows in block], 1)
            for each, own, optimizer in zip(stacks, members, optimizers, strict=True)
        ]
        every = torch.cat(losses)[places]
        return every[:, 0] if isinstance(rows, Tensor) else every

    return step


def class_first_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy (N,) of logits (N, batch, classes) on classes (batch,) or (N, batch), none of them ignored.

    With the classes along the first axis: a softmax over ten neighbours takes torch 15 times as long on a CPU.
    """
    logs = outputs.permute(2, 0, 1).contiguous().log_softmax(0)
    return -logs.gather(0, targets.expand(1, *outputs.shape[:2]))[0].mean(1)


def plain_loss(loss: Loss) -> Loss:
    """torch's function in place of its module where that has no settings of its own: the same in one call for all."""
    match loss:
        case nn.CrossEntropyLoss(weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
            return nn.functional.cross_entropy
        case nn.MSELoss(reduction="mean"):
            return nn.functional.mse_loss
    return loss


def per_subnet_loss(loss: Loss, outputs: Tensor, targets: Tensor, *, is_own: bool = False) -> Tensor:
    """Losses (N,) of outputs (N, batch, ...) on targets (batch, ...), or (N, batch, ...) if each has its own.

    torch's defaults take one call for all subnets; others are called for one after the other.
    """
    if loss is class_first_cross_entropy:
        if outputs.dim() == 3 and targets.dim() == 1 + is_own:
            return class_first_cross_entropy(outputs, targets)
        loss = nn.functional.cross_entropy
    count = len(outputs)
    each_target = targets if is_own else targets.expand(count, *targets.shape)
    if loss is nn.functional.cross_entropy and outputs.dim() == 3 and each_target.dim() == 2:
        values = loss(outputs.flatten(0, 1), each_target.flatten(), reduction="none").view(count, -1)
        return values.sum(1) / (each_target != IGNORED_LABEL).sum(1)
    if loss is nn.functional.mse_loss:
        return (outputs - each_target).square().flatten(1).mean(1)
    return torch.stack([loss(output, target) for output, target in zip(outputs, each_target, strict=True)])
