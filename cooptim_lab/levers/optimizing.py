"""Levers of the optimizer and of the batch: what a step is made of, and how far it goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .lever import TRAINING, Lever, Seen

if TYPE_CHECKING:
    import torch

LEAST_STEPS = 2
"""Of an epoch: a batch that leaves fewer is not tried."""


class Batch(Lever):
    """Rows of a step: more of them use the machine better, and make fewer steps of an epoch."""

    name, group, help = "batch", TRAINING, "rows of a step, over all ranks together"
    kind, least, changes = int, 1, True

    def options(self) -> Mapping[str, Any]:
        return {"batch": self.value}

    @classmethod
    def tried(cls, seen: Seen) -> Iterable[Lever]:
        sizes = [seen.batch * times for times in (2, 4, 8)]
        return [cls(size) for size in sizes if seen.rows / size >= LEAST_STEPS]


class Rate(Lever):
    """The learning rate times so much: of a batch k times as large the rule says k, or √k; which, is judged."""

    name, group, help = "lr", TRAINING, "the learning rate times so much"
    kind, changes = float, True

    def change_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * self.value

    @classmethod
    def tried(cls, seen: Seen) -> Iterable[Lever]:
        """With a larger batch: by the two rules, for each that is tried."""
        factors = {(batch.value or 0) / seen.batch for batch in Batch.tried(seen)}
        return [cls(each) for each in sorted({rule for k in factors for rule in (k, round(k**0.5, 2))})]


class Fused(Lever):
    """All of an optimizer's step in one pass over the numbers. Torch's default on a CPU is a loop over the tensors."""

    name, group, help = "fused", TRAINING, "the optimizer's step in one pass"

    def why_not(self, seen: Seen) -> str:
        from ..preparing.optimizers import FUSED_OPTIMIZERS, is_usual

        kind = type(seen.optimizer)
        if kind not in FUSED_OPTIMIZERS:
            return f"torch has no fused {kind.__name__} for a CPU"
        if not all(map(is_usual, seen.optimizer.param_groups)):
            return "of parameters in half precision it leaves numbers unstepped"
        return ""

    def change_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        from ..preparing.optimizers import use_fused

        use_fused(optimizer)
