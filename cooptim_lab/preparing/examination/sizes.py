"""Can the network train on the smallest batch that an epoch has? One row is too few for BatchNorm, above all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...data.values import first_line
from ...errors import InputError
from ..building import copied
from ..modes import put


@dataclass(frozen=True)
class Smallest:
    """The fewest rows that a network will train on together."""

    rows: int
    what: str
    """Which they are."""
    advice: str
    """What to do where they are too few."""


def smallest_batch(rows: int, batch: int) -> Smallest:
    """Of an epoch of so many rows: its last batch, or every batch where all are alike."""
    batch = min(batch, rows)
    if left := rows % batch:
        what = f"the last batch of an epoch ({rows} rows in batches of {batch}) has {left}"
        return Smallest(left, what, f"give batch = {_other(rows, batch)}")
    return Smallest(batch, f"every batch has {batch}", f"give batch = {_other(rows, batch)}")


def _other(rows: int, batch: int) -> int:
    """The nearest size, smaller ones first, that leaves no single row."""
    near = (size for step in range(1, rows) for size in (batch - step, batch + step))
    return next((size for size in near if 1 < size <= rows and rows % size != 1), rows)


def check_smallest(
    network: nn.Module, loss: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, smallest: Smallest
) -> None:
    """Train a copy on as few of the rows (x, y) as `smallest` says, and see that it can.

    Raises
    ------
    InputError
        Which batch it is, what the network says of it, and what to do.
    """
    rows = min(smallest.rows, len(x))
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            outputs = put(copied("the model", network), training=True)(x[:rows].clone())
            if outputs.dim() == 0 or len(outputs) != rows:
                raise ValueError(f"its outputs then have the shape {tuple(outputs.shape)}; say which axis to squeeze")
            loss(outputs, y[:rows])
    except Exception as error:
        only = f"{rows} row{'s' * (rows > 1)}"
        raise InputError(
            f"the model cannot train on {only}, and {smallest.what}: {smallest.advice} ({first_line(error)})"
        ) from error
