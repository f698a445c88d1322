"""N networks of convolutions as one that is N times as wide: a convolution of N groups for each of theirs.

The user's own forward runs once, on activations (batch, N·channels, ...): what treats channels alike (activations,
pooling, flattening, sums) does for N networks what it does for one. What does not (a mean over channels, say) would mix
the networks, so whoever makes such a stack compares its outputs with the networks' own.

How they are trained, and where they come from, is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...preparing.building import copied
from ..scaled import factor_of, plain_kind
from ..states import State, state_of
from .stacks import AutogradStack, states_of

_CONVOLUTIONS: dict[type[nn.Module], Any] = {
    nn.Conv1d: functional.conv1d,
    nn.Conv2d: functional.conv2d,
    nn.Conv3d: functional.conv3d,
}


class ChannelStack(AutogradStack):
    """Networks of one architecture, side by side in the channels of one. Takes the same batch for all.

    Raises
    ------
    TypeError
        For a layer that has parameters and no rule here, or a network without convolutions.
    """

    engine = "channels"
    memory_format = torch.channels_last
    """Of images between layers: with channels as neighbours pooling takes torch a twentieth of the time on a CPU, and
    a whole step of a small network 0.6 of it (measured: 64 images of 8×8, 4 networks)."""

    def __init__(self, subnets: Sequence[nn.Module], members: list[int]) -> None:
        self.members, count = members, len(subnets)
        self._wide = copied("a sub-network", subnets[0])
        self._stacked: dict[str, Tensor] = {}  # (N, ...), views of what the wide network has
        if not any(plain_kind(module) in _CONVOLUTIONS for module in self._wide.modules()):
            raise TypeError("no convolution")
        states = [state_of(subnet) for subnet in subnets]
        trained = {name for name, p in subnets[0].named_parameters() if p.requires_grad}
        self._buffers = {name for name, _ in subnets[0].named_buffers()}
        for path, module in list(self._wide.named_modules()):
            own = [name for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))]
            if not own:
                continue
            prefix = f"{path}." if path else ""
            tensors = {}
            for name in own:
                each = torch.stack([state[prefix + name].detach() for state in states])
                tensors[name] = each.requires_grad_(prefix + name in trained)
                self._stacked[prefix + name] = tensors[name]
            parent, _, last = path.rpartition(".")
            layer = _wide_layer(module, tensors, count, self.memory_format).train(module.training)
            setattr(self._wide.get_submodule(parent), last, layer)

    def parameters(self) -> dict[str, Tensor]:
        return {name: p for name, p in self._stacked.items() if p.requires_grad}

    def buffers(self) -> list[Tensor]:
        return [value for name, value in self._stacked.items() if name in self._buffers]

    def __call__(self, x: Tensor, *, is_own: bool = False) -> Tensor:
        assert not is_own
        outputs = self._wide(x)
        return outputs.view(len(outputs), len(self.members), -1).transpose(0, 1)

    def states(self) -> list[State]:
        return states_of(self._stacked)


class PlainChannelStack(ChannelStack):
    """The same for a network that looks at its images with `view`, which needs them as torch lays them out."""

    memory_format = torch.contiguous_format


def _wide_layer(module: nn.Module, tensors: dict[str, Tensor], count: int, memory: torch.memory_format) -> nn.Module:
    match module:
        case nn.Linear():
            return _Linear(module, tensors, count)
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d() if module.padding_mode == "zeros":
            return _Convolution(module, tensors, count, memory)
        case nn.BatchNorm1d() | nn.BatchNorm2d() | nn.BatchNorm3d():
            return _BatchNorm(module, tensors)
    raise TypeError(f"no rule for {type(module).__name__}")


class _Layer(nn.Module):
    """Holds stacked tensors (N, ...), not as parameters of its own: an optimizer may replace their data."""

    def __init__(self, module: nn.Module, tensors: dict[str, Tensor], count: int) -> None:
        super().__init__()
        self.tensors, self.count = tensors, count
        factor = factor_of(module)
        self.factor = factor if isinstance(factor, float) else 1.0

    def weight(self) -> Tensor:
        """(N, out, in, ...), as it is read: with the factors of a part's inputs (see `scaled`)."""
        weight = self.tensors["weight"]
        if "factor" in self.tensors:
            return weight * self.tensors["factor"].unsqueeze(1)
        return weight if self.factor == 1 else weight * self.factor

    def wide(self, name: str) -> Tensor | None:
        """A tensor with the networks side by side along its first axis."""
        return self.tensors[name].flatten(0, 1) if name in self.tensors else None


class _Linear(_Layer):
    """(batch, in) of all, or (batch, N·in), to (batch, N·out)."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight()
        if x.shape[-1] == weight.shape[2]:
            return functional.linear(x, weight.flatten(0, 1), self.wide("bias"))
        each = x.view(len(x), self.count, -1).transpose(0, 1)
        out = torch.bmm(each, weight.transpose(1, 2))
        if "bias" in self.tensors:
            out = out + self.tensors["bias"].unsqueeze(1)
        return out.transpose(0, 1).flatten(1)


class _Convolution(_Layer):
    """(batch, in, ...) of all, or (batch, N·in, ...), to (batch, N·out, ...)."""

    def __init__(self, module: Any, tensors: dict[str, Tensor], count: int, memory: torch.memory_format) -> None:
        super().__init__(module, tensors, count)
        self.memory = memory if isinstance(module, nn.Conv2d) else torch.contiguous_format
        self.inputs, self.groups, self.call = module.in_channels, module.groups, _CONVOLUTIONS[plain_kind(module)]
        self.settings = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}

    def forward(self, x: Tensor) -> Tensor:
        is_shared = x.shape[1] == self.inputs
        if is_shared and self.groups > 1:
            raise TypeError("the first convolution has groups")
        groups = 1 if is_shared else self.count * self.groups
        weight = self.weight().flatten(0, 1)
        return self.call(
            x.contiguous(memory_format=self.memory), weight, self.wide("bias"), groups=groups, **self.settings
        ).contiguous(memory_format=self.memory)


class _BatchNorm(_Layer):
    """Statistics are of a channel alone, so those of N networks are those of N·channels."""

    def __init__(self, module: Any, tensors: dict[str, Tensor]) -> None:
        super().__init__(module, tensors, 0)
        if module.momentum is None:
            raise TypeError("a cumulative average")
        self.momentum, self.eps, self.tracks = module.momentum, module.eps, module.track_running_stats

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.wide("running_mean"), self.wide("running_var")  # views: updated in place
        if self.training and self.tracks:
            self.tensors["num_batches_tracked"].add_(1)
        is_by_batch = self.training or not self.tracks
        weight, bias = self.wide("weight"), self.wide("bias")
        return functional.batch_norm(x, mean, variance, weight, bias, is_by_batch, self.momentum, self.eps)
