"""BatchNorm over shards: every rank normalises by the statistics of the whole batch, as one process would.

torch's own SyncBatchNorm runs on GPUs only, and takes the user's layers out of the network. Here the layers stay as
they are: while a rank computes a step, `torch.nn.functional.batch_norm` itself, which all of them call (frozen ones, a
subclass with a forward of its own, a call by hand), sums over all ranks where it is asked to normalise by the batch:
three numbers per channel forward, two backward. Before each, ranks tell each other which sum they have come to: a
network that branches on its data would else wait for ever. The same is done of layers that are called again while the
gradient is computed, within a checkpoint.

Where ranks take steps of their own there is no whole batch; then each normalises by its part, which is said, and the
running statistics are averaged (`average_buffers`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from ..comm.waiting import complete
from ..errors import InputError
from ..preparing.lasting import Lasting
from ..training.spec import Sharded

AS_IT_IS, SHARED, ALONE = "as it is", "shared", "alone"
"""How a network's BatchNorm normalises: as one process does; over the rows of all ranks; every rank by its own."""
DONE = 0
"""Of a forward pass that has come to its end: the number of no sum."""


def normalises_by_batch(network: nn.Module, x: Tensor) -> bool:
    """Whether a network in training mode normalises by the batch, of rows x: asked of `batch_norm` itself."""
    with _Counting() as counting, torch.no_grad():
        network(x)
    # One that is not reached by these rows may be by others.
    return counting.calls > 0 or any(isinstance(m, _BatchNorm) and m.training for m in network.modules())


def normalising(is_normalised: bool, spec: Sharded, ranks: int) -> str:
    """How BatchNorm normalises on so many ranks: `SHARED` where every step is one of all of them."""
    if ranks == 1 or not is_normalised:
        return AS_IT_IS
    return SHARED if spec.is_synchronous else ALONE


class _Mode(Lasting):
    """While it lasts, `batch_norm` in training is `normalise`; every other function of torch's is itself."""

    def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        if function is functional.batch_norm and _is_by_batch(*args, **kwargs):
            return self.normalise(*args, **kwargs)
        return function(*args, **kwargs)

    def normalise(self, *args: Any, **kwargs: Any) -> Tensor:
        raise NotImplementedError


def _is_by_batch(
    x: Tensor, mean: Any, variance: Any, weight: Any = None, bias: Any = None, training: bool = False, *rest: Any,
    **more: Any,
) -> bool:  # fmt: skip
    return training


class _Counting(_Mode):
    """Counts the calls."""

    calls = 0

    def normalise(self, *args: Any, **kwargs: Any) -> Tensor:
        self.calls += 1
        return functional.batch_norm(*args, **kwargs)


class OverRanks(_Mode):
    """Sums over all ranks, in one forward and backward pass at a time: it is to be on in the backward pass too.

    Attributes
    ----------
    is_present
        Whether this rank's rows count: one that has none in a batch still takes part in the sums.
    """

    def __init__(self, comm: Any) -> None:
        super().__init__()
        self.comm, self.is_present, self._calls = comm, True, 0

    def forward(self, compute: Callable[[], Tensor], *, is_present: bool = True) -> Tensor:
        """What `compute` gives, its `batch_norm` being over all ranks. Collective.

        Raises
        ------
        InputError
            On all ranks, when one comes to a sum that another does not come to.
        """
        self.is_present, self._calls = is_present, 0
        with self:
            value = compute()
        self._meet(DONE)
        return value

    def normalise(
        self, x: Tensor, mean: Tensor | None, variance: Tensor | None, weight: Tensor | None = None,
        bias: Tensor | None = None, training: bool = True, momentum: float = 0.1, eps: float = 1e-5,
    ) -> Tensor:  # fmt: skip
        self._calls += 1
        self._meet(self._calls)
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        over = [0, *range(2, x.dim())]

        def remember(found: Tensor, spread: Tensor, count: Tensor) -> None:
            if mean is not None:
                mean.lerp_(found.to(mean.dtype), momentum)
            if variance is not None:
                unbiased = spread * (count / (count - 1).clamp(min=1))
                variance.lerp_(unbiased.to(variance.dtype), momentum)

        y = _Normalise.apply(wide, over, eps, self.comm, self.is_present, remember)
        shape = (1, -1, *[1] * (x.dim() - 2))
        if weight is not None:
            y = y * weight.view(shape)
        if bias is not None:
            y = y + bias.view(shape)
        return y.to(x.dtype)

    def _meet(self, number: int) -> None:
        """See that all ranks have come to the sum of this number. Collective."""
        mine = np.array([number])
        every = np.empty(self.comm.Get_size(), mine.dtype)
        complete(self.comm.Iallgather(mine, every), mine, every)
        if (every != number).any():
            said = ", ".join(
                f"rank {rank} {'at its end' if n == DONE else f'at its BatchNorm {n}'}"
                for rank, n in enumerate(every.tolist()[:4])
            )
            raise InputError(
                f"BatchNorm is reached on some ranks and not on others in one step ({said}): the model branches on its "
                "data; aggregate local, or let it take the same way for all rows"
            )


class _Normalise(torch.autograd.Function):
    """x (rows, channels, ...) to zero mean and unit variance of every channel over all ranks' rows.

    Forward and backward as in Ioffe & Szegedy, "Batch normalization", ICML 2015, with sums over all ranks. `remember`
    is given mean, variance and the number of rows here, as torch's own does it: once called again, a layer in a
    checkpoint is left as soon as the last tensor is there that the gradient needs.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, over: list[int], eps: float, comm: Any, is_present: bool, remember: Callable[..., None]
    ) -> Tensor:
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
        ctx.comm, ctx.over, ctx.shape, ctx.is_present = comm, over, shape, is_present
        remember(mean, variance, count)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, None, None, None, None, None]:
        y, scale, count = ctx.saved_tensors
        dy, shape = gradients[0], ctx.shape
        channels = y.shape[1]
        sums = _sum(torch.cat([dy.sum(ctx.over), (dy * y).sum(ctx.over)]), ctx.comm) / count
        mean_dy, mean_dy_y = sums[:channels].view(shape), sums[channels:].view(shape)
        if not ctx.is_present:  # its rows are in nobody's batch: what the sums say of others' is nothing to them
            return torch.zeros_like(y), None, None, None, None, None
        return (dy - mean_dy - y * mean_dy_y) * scale.view(shape), None, None, None, None, None


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
