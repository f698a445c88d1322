"""N trained subnets become one network again."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class MeanFusion(nn.Module):
    """The fused network y = f(x) = 1/N Σ f_i(x): the mean of the subnets' outputs (logits, for classes)."""

    def __init__(self, subnets: Iterable[nn.Module]) -> None:
        super().__init__()
        self.subnets = nn.ModuleList(subnets)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of the subnets' own shape for a batch x (batch, ...)."""
        total = self.subnets[0](x)
        for subnet in self.subnets[1:]:
            total = total + subnet(x)
        return total / len(self.subnets)


def diversity(outputs: Tensor) -> float:
    """The mean squared distance of the subnets' outputs (N, batch, ...) from their mean.

    MSE(ensemble) = mean MSE − diversity: Krogh & Vedelsby, "Neural network ensembles, cross validation, and active
    learning", NIPS 7, 1995.
    """
    with torch.no_grad():
        return float((outputs - outputs.mean(0)).square().mean())
