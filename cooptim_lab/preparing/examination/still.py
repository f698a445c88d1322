"""A network's functions made still, so that two of its passes can be compared: no dropout, BatchNorm as it was once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..lasting import Lasting

DROPOUTS = frozenset(
    {
        functional.dropout,
        functional.dropout1d,
        functional.dropout2d,
        functional.dropout3d,
        functional.alpha_dropout,
        functional.feature_alpha_dropout,
    }
)


class Still(Lasting):
    """While it lasts, dropout leaves all as it is.

    Parameters
    ----------
    norms
        None: BatchNorm is as it is. Else its means and variances, one pair a call, in training mode: those that are
        there are used, by the calls' order; where there are no more, a batch's own are, and are put there. So over the
        parts of a batch it normalises as over the whole, and its running statistics stay.

    Attributes
    ----------
    coarsest
        The step from 1 to the next number, of the coarsest floats that a function gave.
    """

    def __init__(self, norms: list[tuple[Tensor, Tensor]] | None = None) -> None:
        super().__init__()
        self._norms, self._calls, self.coarsest = norms, 0, torch.finfo(torch.float64).eps

    def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        if function in DROPOUTS:
            return args[0] if args else kwargs["input"]
        if function is functional.batch_norm and self._norms is not None:
            return self._normalise(self._norms, *args, **kwargs)
        value = function(*args, **kwargs)
        if type(value) is Tensor and value.is_floating_point():
            self.coarsest = max(self.coarsest, torch.finfo(value.dtype).eps)
        return value

    def _normalise(
        self, norms: list[tuple[Tensor, Tensor]], input: Tensor, running_mean: Tensor | None,
        running_var: Tensor | None, weight: Tensor | None = None, bias: Tensor | None = None, training: bool = False,
        momentum: float = 0.1, eps: float = 1e-5,
    ) -> Tensor:  # fmt: skip
        if not training:
            return functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        if self._calls == len(norms):
            over = [0, *range(2, input.dim())]
            wide = input.detach().to(input.dtype if weight is None else weight.dtype)
            norms.append((wide.mean(over), wide.var(over, unbiased=False)))
        mean, variance = norms[self._calls]
        self._calls += 1
        return functional.batch_norm(input, mean, variance, weight, bias, False, momentum, eps)


def without_dropout(network: nn.Module) -> nn.Module:
    """The network with dropout set to 0 where layers hand it on by themselves: attention, recurrent ones."""
    for module in network.modules():
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0  # type: ignore[assignment]
    return network
