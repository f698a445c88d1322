"""One rank's copy of the model: all its weights in one flat buffer, all its gradients in another.

Nothing is copied to send them, and one pass of an optimizer updates them all. Behind both lie a few numbers by which
ranks agree on what concerns all of them: they travel with every exchange and cost nothing of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...training.optimizers import is_elementwise, use_fused

CONTROL = 5
"""Numbers behind the gradient: the weighted loss; ranks that wish to stop; ranks whose loss is not finite, and the sum
of their numbers; whether times are to be shared after this exchange."""

MakeOptimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


class Replica:
    """A model whose parameters and gradients are views of two flat buffers.

    Parameters
    ----------
    model
        Its parameters' data and gradients are replaced by the views.
    make_optimizer
        Makes an optimizer over what it is given. One that treats every number by itself and all of them alike is given
        the flat buffer as one parameter; any other the model's own parameters.

    Attributes
    ----------
    count : int
        Numbers that are trained.
    weights, gradient : Tensor
        (count + CONTROL,), of the parameters' dtype.
    control : numpy.ndarray
        A view of what is behind the gradient, (CONTROL,).

    Raises
    ------
    InputError
        When the parameters are not all float32 or all float64: MPI adds no others.
    """

    def __init__(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        self.model = model
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        types = {p.dtype for p in self.parameters}
        if len(types) > 1 or not types <= {torch.float32, torch.float64}:
            names = ", ".join(sorted(str(t).removeprefix("torch.") for t in types))
            raise InputError(
                f"the model's parameters are {names}: shards are aggregated in float32 or float64, all the same"
            )
        self.count = sum(p.numel() for p in self.parameters)
        self.weights = torch.zeros(self.count + CONTROL, dtype=self.parameters[0].dtype)
        self.gradient = torch.zeros_like(self.weights)
        self.control = self.gradient[-CONTROL:].numpy()
        self._weight = torch.ones((), dtype=self.weights.dtype)
        self._weight_now = 1.0
        optimizer = make_optimizer(self.parameters)
        for p, value, grad in zip(self.parameters, self.views(self.weights), self.views(self.gradient), strict=True):
            value.copy_(p.detach())
            p.data, p.grad = value, grad
        groups = [group["params"] for group in optimizer.param_groups]
        is_whole = len(groups) == 1 and list(map(id, groups[0])) == list(map(id, self.parameters))
        if is_elementwise(optimizer) and is_whole:
            flat = self.weights[: self.count].detach().requires_grad_()
            flat.grad = self.gradient[: self.count]
            optimizer = make_optimizer([flat])
            use_fused(optimizer)
        self.optimizer = optimizer

    def views(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat buffer in the parameters' shapes, in their order."""
        parts = flat[: self.count].split([p.numel() for p in self.parameters])
        return [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]

    def backward(self, loss: Callable[[], Tensor] | None, weight: float) -> float:
        """Put `weight` times the gradient of a loss into the buffer, zeros where there is none; returns the loss."""
        self.gradient.zero_()
        if loss is None:
            return 0.0
        value = loss()
        if value.dtype != self._weight.dtype:
            value.backward(torch.full_like(value, weight))
        else:
            if weight != self._weight_now:
                self._weight.fill_(weight)
                self._weight_now = weight
            value.backward(self._weight)
        return value.item()

    def step(self) -> None:
        """Let the optimizer make the gradient a step."""
        self.optimizer.step()
