"""Where the weights and the gradient of a replica lie, and which part of them its optimizer updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Place:
    """Where a replica's buffers lie, and what part of the weights it updates: its own memory, and all of them."""

    def make(self, numbers: int, dtype: torch.dtype, divisible: bool) -> tuple[Tensor, Tensor]:
        """Buffers for so many weights and as many numbers of the gradient, of zeros.

        `divisible`: whether the optimizer may be given a part of them.
        """
        weights = torch.zeros(numbers, dtype=dtype)
        return weights, torch.zeros_like(weights)

    def part(self, count: int) -> tuple[int, int]:
        """From which to which of `count` weights the optimizer here updates."""
        return 0, count

    def total(self, gradient: Tensor, start: int, end: int) -> Tensor:
        """Where the gradient of the whole batch will be found, for that part, (end - start,)."""
        return gradient[start:end]


OWN_MEMORY = Place()


class Piece(NamedTuple):
    """Of a parameter, what is updated here."""

    of: int
    """The parameter's place."""
    weights: Tensor
    """The parameter itself, where all of it is; else those of its numbers that are, (k,)."""
    total: Tensor
    """Its gradient of the whole batch, in the same shape."""


def pieces_of(
    parameters: Sequence[Tensor], ranges: Sequence[tuple[int, int]], weights: Tensor, total: Tensor, start: int,
    end: int,
) -> list[Piece]:  # fmt: skip
    """Of weights[start:end], parameter by parameter; `total` is for those."""
    found = []
    for place, (p, (first, last)) in enumerate(zip(parameters, ranges, strict=True)):
        low, high = max(first, start), min(last, end)
        of_total = total[max(0, low - start) : max(0, high - start)]
        if (start, end) == (0, ranges[-1][1]):
            found.append(Piece(place, p, of_total.view_as(p)))
        elif low < high:
            part = weights[low:high].detach().requires_grad_()
            part.grad = of_total
            found.append(Piece(place, part, of_total))
    return found
