"""Levers of the numbers: what products of matrices are computed in, or the weights themselves.

Whether the processor has instructions for it does not say whether it is faster: each is measured.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from .lever import PARAMETERS, TRAINING, Lever, Seen

if TYPE_CHECKING:
    from torch import Tensor, nn


class Products(Lever):
    """Products in bf16 inside, of float32 inputs and with float32 results: the network is not touched."""

    name, group, help = "bf16-products", TRAINING, "float32 products computed in bf16 inside"
    changes, excludes = True, ("autocast", "bf16")

    def why_not(self, seen: Seen) -> str:
        return _not_float32(seen)

    def around(self) -> AbstractContextManager[Any]:
        from ..preparing.arithmetic import products_in

        return products_in("bf16")


class Autocast(Lever):
    """Torch's automatic mixed precision in bf16: products in bf16, what would lose by it in float32."""

    name, group, help = "autocast", TRAINING, "mixed precision, bf16"
    changes, excludes, ways = True, ("bf16-products", "bf16"), ("baseline",)

    def why_not(self, seen: Seen) -> str:
        return _not_float32(seen)

    def forward(self) -> AbstractContextManager[Any]:
        import torch

        return torch.autocast("cpu", torch.bfloat16)


class Weights(Lever):
    """The weights themselves in bf16, and what the optimizer remembers of them. Handed over they are float32 again."""

    name, group, help = "bf16", PARAMETERS, "weights and optimizer in bf16"
    changes, excludes, ways = True, ("bf16-products", "autocast", "fused"), ("baseline",)

    def why_not(self, seen: Seen) -> str:
        return _not_float32(seen)

    def change_network(self, network: nn.Module) -> nn.Module:
        return network.bfloat16()

    def change_rows(self, x: Tensor) -> Tensor:
        return x.bfloat16() if x.is_floating_point() else x

    def give_back(self, network: nn.Module) -> nn.Module:
        from ..preparing.building import copied

        return copied("the trained network", network).float()


def _not_float32(seen: Seen) -> str:
    import torch

    kinds = {p.dtype for p in seen.network.parameters()}
    if kinds == {torch.float32}:
        return ""
    return f"the parameters are {', '.join(sorted(str(kind).removeprefix('torch.') for kind in kinds))}, not float32"
