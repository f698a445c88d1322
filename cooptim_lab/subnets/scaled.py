"""Layers of a part whose hidden inputs count several times, as dropout has it: y = W (N · h) + b.

A part has 1/N of a layer's units, so a sum over them is 1/N of what the whole network would find, and what the part
learns to make up for that is N times too large in the whole. Inverted dropout (Srivastava et al., "Dropout: a simple
way to prevent neural networks from overfitting", JMLR 2014) has the remedy: while it trains, each unit that is there
counts for those that are not. Over random deals the expectation of every such sum is then the whole network's.

What is scaled is the sum over units, wherever there is one, each unit by (size of its layer) / (units that the part
has), so parts need not be equally wide:

- linear layers and convolutions that take units, and what attention projects out of its heads, which stay whole;
- not what attention projects into them: queries and keys are multiplied by each other, so N-fold sums come out N²-fold
  and saturate the softmax (measured, two heads in two parts, width 64, before and after polishing: 43 and 94 % with the
  factor, 74 and 97 % without; the network as it is 97.5; with a factor for the values alone 57 and 95);
- behind LayerNorm and BatchNorm as well: normalised units have the size that they have in the whole network, and there
  are fewer of them to be summed. In front of BatchNorm the factor is normalised away again, and harms nothing;
- of what a residual stream adds up, nothing: its units are values, not sums over units, and what is added to them comes
  from layers of the first kind.

What treats each unit by itself (activations, depthwise convolutions, slopes and norms' own weights) has no factor, nor
have inputs that are no hidden units: the columns of x in [h, x].

N parts are N such samples, and dropout's gradient is the mean of its samples'. So each part's gradient is divided by N
(`Division.share`): else plain SGD would make steps N times as large as in the whole network (measured: at a rate of 0.1
with momentum 0.9 all parts diverge). To Adam, which normalises, it makes no difference.

The weight is stored as it is in the whole network and read scaled, by whoever reads it. Optimizer, dealing anew and
merging therefore know nothing of it, and a weight learns at the rate of the whole network: scaled once and for all, it
would need another one (1/N for Adam, 1/N² for SGD). What a part is, and which layers have a factor, is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

Factor = float | Tensor
"""Of all inputs, or of each: a buffer that fits the weight without its first axis."""
KINDS = 256
"""Classes that are remembered: users' own come and go."""


class Scaled(nn.Module):
    """What a layer's class is mixed with: `tensor`, one of its parameters, is read scaled by `factor`."""

    plain: type[nn.Module]
    tensor: str
    factor: Factor


@lru_cache(KINDS)
def _scaled_kind(kind: type[nn.Module], tensor: str) -> type[nn.Module]:
    def read(self: Scaled) -> Any:
        return stored(self, tensor) * self.factor

    return type(kind.__name__, (Scaled, kind), {"plain": kind, "tensor": tensor, tensor: property(read)})


@torch.no_grad()
def scale(network: nn.Module, factors: Mapping[str, Tensor]) -> nn.Module:
    """Let weights count their inputs so many times; in place.

    Parameters
    ----------
    factors
        By the names of weights (out, in, ...), the factors (in,).
    """
    for name, each in factors.items():
        path, _, tensor = name.rpartition(".")
        module = network.get_submodule(path)
        weight = getattr(module, tensor)
        factor = each.to(weight).view(-1, *[1] * (weight.dim() - 2))
        kind: Any = type(module)
        module.__class__ = _scaled_kind(kind, tensor)
        if bool((each == each[0]).all()):
            module.factor = float(each[0])  # type: ignore[assignment]
        else:
            module.register_buffer("factor", factor, persistent=False)
    return network


@torch.no_grad()
def settle(network: nn.Module) -> nn.Module:
    """Multiply the factors into the weights: the same function, of layers that are nothing special; in place."""
    for module in network.modules():
        if isinstance(module, Scaled):
            stored(module, module.tensor).mul_(module.factor)
            del module.factor
            module.__class__ = module.plain  # type: ignore[assignment]
    return network


def stored(module: nn.Module, tensor: str) -> Tensor:
    """A parameter without its factor."""
    parameter = module._parameters[tensor]
    assert parameter is not None
    return parameter


def factor_of(module: nn.Module) -> Factor:
    """1 where it has none."""
    return module.factor if isinstance(module, Scaled) else 1.0


def plain_kind(module: nn.Module) -> type[nn.Module]:
    """Its class, the factor left aside."""
    return module.plain if isinstance(module, Scaled) else type(module)
