"""Which rows are held out: never trained on, always scored."""

from __future__ import annotations

import torch
from torch import Tensor


def hold_out(rows: int, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """The rows to train on, ascending, and the held-out rows, in the order in which `prepare` scores them; int32.

    4 bytes a row is all that it needs at any time, beside the few held-out ones.
    """
    training, held = draw_held_out(rows, held_out, seed)
    training.numpy().sort()  # in place: torch's own sort would make an int64 index as well
    return training, held.clone()


def draw_held_out(rows: int, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """The rows to train on and the held-out rows, both in the order in which they are drawn; at least one of each."""
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    held = min(rows - 1, max(1, round(held_out * rows)))
    return order[held:], order[:held]
