"""Levers of how a network's operators are run: in which layout of memory, compiled or one by one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .lever import TRAINING, Lever, Seen

if TYPE_CHECKING:
    from torch import Tensor, nn


class ChannelsLast(Lever):
    """Images and weights of convolutions with their channels side by side in memory."""

    name, group, help = "channels-last", TRAINING, "channels side by side in memory, for convolutions"
    ways = ("baseline",)

    def why_not(self, seen: Seen) -> str:
        if seen.x.dim() == 4 and any(p.dim() == 4 for p in seen.network.parameters()):
            return ""
        return "there is no convolution of images"

    def change_network(self, network: nn.Module) -> nn.Module:
        import torch

        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def change_rows(self, x: Tensor) -> Tensor:
        import torch

        return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x

    def give_back(self, network: nn.Module) -> nn.Module:
        import torch

        from ..preparing.building import copied

        plain = copied("the trained network", network)
        return plain.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


class Compile(Lever):
    """`torch.compile`: operators put together by a compiler, which takes its time before the first step."""

    name, group, help = "compile", TRAINING, "torch.compile; named only: compiling takes long"
    ways = ("baseline",)

    def why_not(self, seen: Seen) -> str:
        compiler = os.environ.get("CXX", "g++")
        return "" if shutil.which(compiler) else f"there is no compiler ({compiler})"

    @classmethod
    def tried(cls, seen: Seen) -> Iterable[Lever]:
        """Only where it is asked for: compiling a small network takes some 20 s, of a budget of 60."""
        return []

    def change_network(self, network: nn.Module) -> nn.Module:
        network.compile(dynamic=False)
        return network

    def give_back(self, network: nn.Module) -> nn.Module:
        from ..preparing.building import copied

        return copied("the trained network", network)  # what is compiled does not come along
