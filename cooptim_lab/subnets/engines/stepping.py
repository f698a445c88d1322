"""One training step of stacked subnets: losses of each, one backward pass, one optimizer over flat parameters.

Which kinds of stacks there are is not known here, nor how many steps an epoch has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...training.loop import Step
from ...training.optimizers import use_fused
from ...training.scoring import IGNORED_LABEL
from .losses import Loss, losses_and_gradient, plain_loss
from .stacks import Stack

MakeOptimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


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
    loss, none_ignored = plain_loss(loss), not (y == IGNORED_LABEL).any()

    def one(each: Stack, own: Tensor, optimizer: Any, rows: Tensor) -> Tensor:
        is_own = rows.dim() == 2
        chosen = rows[own] if is_own else rows
        outputs = each(x[chosen], is_own=is_own)
        losses, gradient = losses_and_gradient(loss, outputs, y[chosen], is_own=is_own, none_ignored=none_ignored)
        if gradient is None or not each.overwrites_gradients:
            optimizer.zero_grad()
        if gradient is not None:
            each.backward(outputs, gradient)
        optimizer.step()
        return losses

    def in_order(parts: list[Tensor]) -> Tensor:
        return parts[0] if len(parts) == 1 else torch.cat(parts)[places]

    def step(rows: Tensor | Sequence[Tensor]) -> Tensor:
        every = list(zip(stacks, members, optimizers, strict=True))
        if isinstance(rows, Tensor):
            return in_order([one(*each, rows) for each in every])
        return in_order([torch.stack([one(*each, of_step) for of_step in rows], 1) for each in every])

    return step
