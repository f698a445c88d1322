"""One training step of stacked subnets: losses of each, one backward pass, one update for all.

A stack that cannot make a step is taken apart: its subnets go on one after the other, from the state that they have.
Which kinds of stacks there are is not known here, nor how many steps an epoch has, nor what an optimizer remembers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...preparing.scoring import IGNORED_LABEL
from .losses import Loss, losses_and_gradient, plain_loss
from .stacks import Stack
from .updating import Updater

Pair = tuple[Stack, Updater]
TakeApart = Callable[[Stack, Updater, Exception], Sequence[Pair]]
"""A stack, what updates it and what it failed with -> each of its members by itself, in their order."""


class StackedStep:
    """One step of all subnets, on rows (batch,) for all, or on rows (subnets, batch) of each one's own; losses (N,).

    Of several steps, given as a sequence, each stack makes all before the next one begins, so that its parameters and
    what the optimizer remembers stay in a core's cache; losses (N, steps). Subnets know nothing of each other, so it
    is the same training.

    The sum of their losses is differentiated, so each subnet gets its own gradient, whatever the others' are.

    Parameters
    ----------
    take_apart
        What to do with a stack that fails; None: raise.
    share
        By which gradients are multiplied: 1/N where each subnet stands for N (see `scaled`).

    Attributes
    ----------
    is_steady
        Whether steps are still made by the stacks that were given.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        loss: Loss,
        x: Tensor,
        y: Tensor,
        *,
        take_apart: TakeApart | None = None,
        share: float = 1.0,
    ) -> None:
        self._x, self._y, self._take_apart, self._share = x, y, take_apart, share
        self._loss, self._none_ignored = plain_loss(loss), not (y == IGNORED_LABEL).any()
        self._lanes: list[list[Pair]] = [[pair] for pair in pairs]
        self._members: dict[Stack, Tensor] = {}
        self._places = torch.tensor([m for stack, _ in pairs for m in stack.members], device=x.device).argsort()
        self.is_steady = True

    @property
    def pairs(self) -> list[Pair]:
        """Every stack, as it is now, with what updates it."""
        return [pair for lane in self._lanes for pair in lane]

    def __call__(self, rows: Tensor | Sequence[Tensor]) -> Tensor:
        if isinstance(rows, Tensor):
            return self._in_order([self._one(lane, rows) for lane in self._lanes])
        return self._in_order([torch.stack([self._one(lane, each) for each in rows], 1) for lane in self._lanes])

    def _in_order(self, parts: list[Tensor]) -> Tensor:
        return parts[0] if len(parts) == 1 else torch.cat(parts)[self._places]

    def _one(self, lane: list[Pair], rows: Tensor) -> Tensor:
        """A step of what one stack was made of, losses (members,)."""
        if len(lane) > 1:
            return torch.cat([self._make(*pair, rows) for pair in lane])
        stack, updater = lane[0]
        if self._take_apart is None or stack.engine == "separate":
            return self._make(stack, updater, rows)
        kept = [buffer.clone() for buffer in stack.buffers()]
        try:
            return self._make(stack, updater, rows)
        except Exception as error:  # noqa: BLE001 - what a stack cannot follow may raise anything
            with torch.no_grad():
                for buffer, value in zip(stack.buffers(), kept, strict=True):
                    buffer.copy_(value)
            lane[:] = self._take_apart(stack, updater, error)
            self.is_steady = False
        return torch.cat([self._make(*pair, rows) for pair in lane])

    def _members_of(self, stack: Stack) -> Tensor:
        """As an index; made once."""
        if stack not in self._members:
            self._members[stack] = torch.tensor(stack.members, device=self._x.device)
        return self._members[stack]

    def _make(self, stack: Stack, updater: Updater, rows: Tensor) -> Tensor:
        is_own = rows.dim() == 2
        chosen = rows[self._members_of(stack)] if is_own else rows
        outputs = stack(self._x[chosen], is_own=is_own)
        losses, gradient = losses_and_gradient(
            self._loss, outputs, self._y[chosen], is_own=is_own, none_ignored=self._none_ignored
        )
        if gradient is not None and self._share != 1:
            gradient = gradient * self._share
        if gradient is None or not stack.overwrites_gradients:
            updater.zero_grad()
        if gradient is not None:
            stack.backward(outputs, gradient)
        updater.step(has_gradient=gradient is not None)
        return losses
