"""BatchNorm over shards: every rank normalises by the statistics of the whole batch, as one process would.

torch's own SyncBatchNorm runs on GPUs only. Here sums travel through MPI: three numbers per channel forward, two
backward. Where ranks take steps of their own there is no whole batch; then each normalises by its part, which is said,
and the running statistics are averaged (`average_buffers`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..comm.waiting import complete
from ..training.spec import Sharded

AS_IT_IS, SHARED, ALONE = "as it is", "shared", "alone"
"""How a network's BatchNorm normalises: as one process does; over the rows of all ranks; every rank by its own."""


def normalising(model: nn.Module, spec: Sharded, ranks: int) -> str:
    """How BatchNorm normalises on so many ranks: `SHARED` where every step is one of all of them."""
    if ranks == 1 or not any(isinstance(module, _BatchNorm) for module in model.modules()):
        return AS_IT_IS
    return SHARED if spec.is_synchronous else ALONE


def share_batchnorm(model: nn.Module, comm: Any) -> nn.Module:
    """Let every BatchNorm layer of a model normalise over all ranks' rows, in place; parameters and buffers stay."""
    made: dict[int, _Shared] = {}  # a layer that is used twice stays one
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, _BatchNorm):
            shared = made.setdefault(id(module), _Shared(module, comm).train(module.training))
            parent, _, last = name.rpartition(".")
            if not last:
                return shared
            setattr(model.get_submodule(parent), last, shared)
    return model


@contextmanager
def absent(model: nn.Module) -> Iterator[None]:
    """While it lasts, this rank's rows do not count in the sums of shared layers."""
    layers = [module for module in model.modules() if isinstance(module, _Shared)]
    for layer in layers:
        layer.is_present = False
    yield
    for layer in layers:
        layer.is_present = True


class _Shared(nn.Module):
    """A BatchNorm layer in training, over the rows of all ranks; it has that layer's parameters and buffers."""

    def __init__(self, layer: Any, comm: Any) -> None:
        super().__init__()
        for name, parameter in layer.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in layer.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self.layer = [layer]  # in a list: not a submodule, or its parameters would be named twice
        self.comm = comm
        self.is_present = True
        """Whether this rank's rows count: one that has none in a batch still takes part in the sums."""

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer[0]
        if not self.training:
            return layer.eval()(x)
        layer.train()
        over = [0, *range(2, x.dim())]
        y, mean, variance, count = _Normalise.apply(x, over, layer.eps, self.comm, self.is_present)
        shape = (1, -1, *[1] * (x.dim() - 2))
        if layer.affine:
            y = y * layer.weight.view(shape) + layer.bias.view(shape)
        if layer.track_running_stats:
            with torch.no_grad():
                layer.num_batches_tracked.add_(1)
                n = float(layer.num_batches_tracked)
                momentum = 1 / n if layer.momentum is None else layer.momentum
                unbiased = variance * (count / (count - 1).clamp(min=1))
                layer.running_mean.lerp_(mean, momentum)
                layer.running_var.lerp_(unbiased, momentum)
        return y


class _Normalise(torch.autograd.Function):
    """x (rows, channels, ...) to zero mean and unit variance of every channel over all ranks' rows.

    Forward and backward as in Ioffe & Szegedy, "Batch normalization", ICML 2015, with sums over all ranks.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, over: list[int], eps: float, comm: Any, is_present: bool) -> tuple[Tensor, ...]:
        channels = x.shape[1]
        count = torch.full((1,), float(x.numel() // channels), dtype=x.dtype)
        first = _sum(torch.cat([x.sum(over), count]) * is_present, comm)
        count = first[-1:]
        mean = first[:-1] / count
        shape = (1, -1, *[1] * (x.dim() - 2))
        centred = x - mean.view(shape)  # in two passes: the square of the mean would cost digits
        variance = _sum(centred.square().sum(over) * is_present, comm) / count
        scale = (variance + eps).rsqrt()
        y = centred * scale.view(shape)
        ctx.save_for_backward(y, scale, count)
        ctx.comm, ctx.over, ctx.shape = comm, over, shape
        ctx.mark_non_differentiable(mean, variance, count)
        return y, mean, variance, count

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, None, None, None, None]:
        y, scale, count = ctx.saved_tensors
        dy, shape = gradients[0], ctx.shape
        channels = y.shape[1]
        sums = _sum(torch.cat([dy.sum(ctx.over), (dy * y).sum(ctx.over)]), ctx.comm) / count
        mean_dy, mean_dy_y = sums[:channels].view(shape), sums[channels:].view(shape)
        return (dy - mean_dy - y * mean_dy_y) * scale.view(shape), None, None, None, None


def average_buffers(model: nn.Module, comm: Any) -> None:
    """The mean over the ranks of what a model keeps beside its parameters: running statistics. In place; collective."""
    floats = [b for b in model.buffers() if b.is_floating_point()]
    if floats and comm.Get_size() > 1:
        mean = _sum(torch.cat([b.flatten().double() for b in floats]), comm) / comm.Get_size()
        for buffer, part in zip(floats, mean.split([b.numel() for b in floats]), strict=True):
            buffer.copy_(part.view_as(buffer))


def _sum(values: Tensor, comm: Any) -> Tensor:
    """The sum over all ranks, on all of them, in place."""
    from mpi4py import MPI

    values = values.contiguous()
    if comm.Get_size() > 1:
        array = values.numpy()
        complete(comm.Iallreduce(MPI.IN_PLACE, array), array)
    return values
