"""What is known of torch's optimizers: which may run over many parameters laid end to end, and which in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .hooks import own_steps

ELEMENTWISE_OPTIMIZERS = (
    torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax,
    torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.Rprop, torch.optim.ASGD,
)  # fmt: skip
"""They update every number by itself, so that one over parameters laid end to end is one over each."""
FUSED_OPTIMIZERS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
"""Those of them that torch computes in one pass on a CPU."""


def is_elementwise(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it may be given its parameters laid end to end: a user's own kind of a known one may do anything."""
    return type(optimizer) in ELEMENTWISE_OPTIMIZERS


def treats_numbers_alone(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it may be made anew over parameters that are laid end to end, or stacked: nothing of it would be lost."""
    return is_elementwise(optimizer) and "step" not in vars(optimizer) and not own_steps(optimizer)


def use_fused(optimizer: torch.optim.Optimizer) -> None:
    """Let it compute in one pass, where it can and was not told otherwise.

    Not in half precision: on a CPU torch 2.13's fused SGD then leaves out most numbers (its issue 191763).
    """
    if type(optimizer) in FUSED_OPTIMIZERS:
        for group in optimizer.param_groups:
            if is_usual(group) and group["fused"] is None and not group["foreach"] and not group["differentiable"]:
                group["fused"] = True


def is_usual(group: Mapping[str, Any]) -> bool:
    """Whether a group of parameters is in full precision."""
    return all(p.dtype in (torch.float32, torch.float64) for p in group["params"])
