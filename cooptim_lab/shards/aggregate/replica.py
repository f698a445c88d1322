"""One rank's copy of the model: all its weights in one flat buffer, all its gradients in another.

Nothing is copied to send them, and one pass of an optimizer updates them all. Behind both lie a few numbers by which
ranks agree on what concerns all of them: they travel with every exchange and cost nothing of their own.

A parameter that no row of a batch has reached has no gradient in one process, and the optimizer leaves it as it is:
neither decay nor momentum moves it. Here it has a place in the buffer all the same. Before a backward pass that is
filled with -0.0, which is 0 for whatever is added to it, and of sums remains only where all that was added was -0.0
too: -0.0 + 0.0 is 0.0. So in the sum over all ranks a parameter is still -0.0 throughout exactly where no rank has
given it anything, be that in the last of a thousand steps, and nothing travels for it. (What backward passes add up is
never -0.0 throughout: sums begin at 0.0. A gradient of one number that is no sum could be, and is then 0 anyway.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError
from ...preparing.building import build_optimizer, remade, trained
from ...preparing.hooks import hooked
from ...preparing.optimizers import treats_numbers_alone, use_fused
from ...task import Task
from ...training.stepping import clip_flat, make_scheduler
from .place import OWN_MEMORY, Place, pieces_of

CONTROL = 5
"""Numbers behind the gradient: the weighted loss; ranks that wish to stop; ranks whose loss is not finite, and the sum
of their numbers; whether times are to be shared after this exchange."""
UNTOUCHED = -0.0
"""What is in the place of a gradient that nothing was added to."""


class Replica:
    """A model whose parameters and gradients are views of two flat buffers.

    Parameters
    ----------
    model
        Its parameters' data and gradients are replaced by the views.
    task
        Its optimizer, scheduler and clip make a step. An optimizer that treats every number by itself and all of them
        alike is given the flat buffer as one parameter; any other, and one with hooks, the model's own parameters.
    steps
        Of the whole training, for the scheduler; a trial may make more (see `make_scheduler`).
    place
        Where the buffers lie, and what part of them is updated here.
    tells
        Whether gradients are to be added up by what may not keep the sign of 0: which parameters are touched then
        travels behind them (`tell`, `hear`).

    Attributes
    ----------
    count : int
        Numbers that are trained.
    weights, gradient : Tensor
        (count + behind,), of the parameters' dtype.
    behind : int
        Numbers behind the gradient: for each parameter whether it got one, where that is told; then CONTROL.
    control : numpy.ndarray
        A view of what is behind the gradient, (CONTROL,).
    clip : float, optional
        What the norm of the whole gradient may be.
    within : contextlib.AbstractContextManager
        What is on while a gradient is computed.

    Raises
    ------
    InputError
        When the parameters are not all float32 or all float64: MPI adds no others. When only a part is updated here,
        and the optimizer does not treat every number by itself.
    """

    def __init__(
        self, model: nn.Module, task: Task, steps: int = 0, *, place: Place = OWN_MEMORY, tells: bool = False,
        is_trial: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.clip = model, task.clip
        self.within: AbstractContextManager[Any] = nullcontext()
        named = trained(model)
        names, self.parameters = [name for name, _ in named], [p for _, p in named]
        types = {p.dtype for p in self.parameters}
        if len(types) > 1 or not types <= {torch.float32, torch.float64}:
            kinds = ", ".join(sorted(str(t).removeprefix("torch.") for t in types))
            raise InputError(
                f"the model's parameters are {kinds}: shards are aggregated in float32 or float64, all the same"
            )
        self.count = sum(p.numel() for p in self.parameters)
        self.behind = CONTROL + (len(self.parameters) if tells else 0)
        self.place = place
        optimizer = build_optimizer(task, self.parameters, names)
        numbers, dtype = self.count + self.behind, self.parameters[0].dtype
        self.weights, self.gradient = place.make(numbers, dtype, treats_numbers_alone(optimizer))
        self.control = self.gradient[-CONTROL:].numpy()
        self._told = self.gradient[self.count : -CONTROL]
        self._bits = self.gradient.numpy().view(np.int64 if self.gradient.dtype == torch.float64 else np.int32)
        self._nothing = int(torch.full_like(self.gradient[:1], UNTOUCHED).numpy().view(self._bits.dtype)[0])
        ends = list(accumulate(p.numel() for p in self.parameters))
        self._ranges = [(end - p.numel(), end) for end, p in zip(ends, self.parameters, strict=True)]
        self._starts = np.array([start for start, end in self._ranges if start < end], np.int64)
        self._is_absent = False
        self._weight = torch.ones((), dtype=self.weights.dtype)
        self._weight_now = 1.0
        for p, value, grad in zip(self.parameters, self.views(self.weights), self.views(self.gradient), strict=True):
            value.copy_(p.detach())
            p.data, p.grad = value, grad
        self.optimizer = self._over_part(optimizer)
        self.scheduler = make_scheduler(task, self.optimizer, steps, is_trial=is_trial)
        self._is_hooked = bool(hooked(model))

    def _over_part(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """The same over what is updated here: laid end to end where that is one group in the model's order."""
        groups, (start, end) = [group["params"] for group in optimizer.param_groups], self.place.part(self.count)
        is_all = (start, end) == (0, self.count)
        total = self.place.total(self.gradient, start, end)
        sees_numbers = treats_numbers_alone(optimizer)
        if not (is_all or sees_numbers):
            kind = type(optimizer).__name__
            raise InputError(
                f"the optimizer is {kind}, which may make more of a weight than its numbers: each rank updates a part "
                "of them; aggregate by allreduce"
            )
        self._pieces = pieces_of(self.parameters, self._ranges, self.weights, total, start, end)
        self._is_flat = sees_numbers and len(groups) == 1 and list(map(id, groups[0])) == list(map(id, self.parameters))
        if self._is_flat:
            flat = self.weights[start:end].detach().requires_grad_()
            flat.grad = total
            optimizer = remade(optimizer, [[flat]])
            self._fused = optimizer.param_groups[0].get("fused")  # as it was given
            use_fused(optimizer)
        elif not is_all:
            of = {id(self.parameters[piece.of]): piece.weights for piece in self._pieces}
            optimizer = remade(optimizer, [[of[id(p)] for p in group if id(p) in of] for group in groups])
        return optimizer

    def views(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat buffer in the parameters' shapes, in their order."""
        parts = flat[: self.count].split([p.numel() for p in self.parameters])
        return [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]

    def touch_none(self) -> None:
        """The next gradient is of a row that is not in the batch: whatever parameter it is for, none has got one."""
        self._is_absent = True

    def backward(self, loss: Callable[[], Tensor] | None, weight: float) -> float:
        """Put `weight` times the gradient of a loss into the buffer, zeros where there is none; returns the loss."""
        self._bits.fill(self._nothing)  # in a third of the time of torch's
        if loss is None:
            return 0.0
        value = loss()
        if value.dtype != self._weight.dtype:
            factor = torch.full_like(value, weight)
        else:
            if weight != self._weight_now:
                self._weight.fill_(weight)
                self._weight_now = weight
            factor = self._weight
        with self.within:
            value.backward(factor)
        if self._is_hooked:
            self._take_over()
        if self._is_absent:
            self.gradient[self.gradient == 0] = UNTOUCHED
            self._is_absent = False
        return value.item()

    def untouched(self, gradient: np.ndarray | None = None) -> list[int]:
        """Places of the parameters whose gradient nothing was added to; of a gradient here, or another rank's."""
        bits = self._bits if gradient is None else gradient.view(self._bits.dtype)
        if self._nothing not in bits[self._starts].tolist():  # a microsecond, where all have got one
            return []
        whole = [(bits[start:end] == self._nothing).all() for start, end in self._ranges]
        return [place for place, (start, end) in enumerate(self._ranges) if start < end and whole[place]]

    def tell(self) -> None:
        """Write behind the gradient which parameters this rank has given one."""
        self._told.fill_(1.0)
        if len(self._told) and (untouched := self.untouched()):
            self._told[untouched] = 0.0

    def hear(self) -> None:
        """Of the sum over all ranks, where that was told: what none has touched looks so, and nothing else."""
        seen = {*self.untouched()} if len(self._told) else set()
        for place, times in enumerate(self._told.tolist()):
            part = self.gradient[slice(*self._ranges[place])]
            if place in seen and times:
                part.zero_()
            elif not times and not part.any():  # what compression had kept back may be there
                part.fill_(UNTOUCHED)

    def _take_over(self) -> None:
        """What hooks have put in the place of gradients is what is meant."""
        for p, view in zip(self.parameters, self.views(self.gradient), strict=True):
            if p.grad is None:
                view.fill_(UNTOUCHED)
            elif p.grad.data_ptr() != view.data_ptr():
                view.copy_(p.grad)
            p.grad = view

    def step(self) -> None:
        """Let the optimizer make the gradient a step, and the rate follow."""
        self.update()
        self.follow()

    def follow(self) -> None:
        """Let the rate follow a step of the training: also one that had nothing for this rank."""
        if self.scheduler is not None:
            self.optimizer._opt_called = True  # type: ignore[attr-defined]  # torch asks; there may be nothing to step
            self.scheduler.step()

    def update(self) -> None:
        """Let the optimizer make the gradient a step, at the rate that there is."""
        untouched = self.untouched()
        if self.clip is not None:
            clip_flat(self.gradient[: self.count], self.clip)
        self.update_part(untouched)

    def update_part(self, untouched: Sequence[int]) -> None:
        """The same of what is updated here, its total being there; `untouched` parameters are left as they are."""
        if untouched and self._is_flat:
            self._take_apart()
        for piece in self._pieces if untouched else ():
            if piece.of in untouched:
                piece.weights.grad = None
        self.optimizer.step()
        if not self._is_flat:  # there is none in some, and a hook may have put others in their places
            for piece in self._pieces:
                piece.weights.grad = piece.total

    def _take_apart(self) -> None:
        """Give the optimizer the model's own parameters from now on, each with its part of what is remembered."""
        (group,) = self.optimizer.param_groups
        (flat,) = group["params"]
        known = self.optimizer.state.pop(flat, {})
        group["params"] = [piece.weights for piece in self._pieces]
        if "fused" in group:  # torch 2.13's fused SGD takes none that have a momentum beside some that have not
            group["fused"] = self._fused
        sizes = [piece.total.numel() for piece in self._pieces]
        for name, value in known.items():
            is_by_number = isinstance(value, Tensor) and value.shape == flat.shape
            parts = value.split(sizes) if is_by_number else [value] * len(sizes)
            for piece, part in zip(self._pieces, parts, strict=True):
                own = part.view_as(piece.weights).clone() if is_by_number else part
                self.optimizer.state[piece.weights][name] = own.clone() if isinstance(own, Tensor) else own
        self._is_flat = False

    def state(self) -> dict[str, Any]:
        """What optimizer and scheduler remember."""
        made = {} if self.scheduler is None else {"scheduler": self.scheduler.state_dict()}
        return {"optimizer": self.optimizer.state_dict(), "is_flat": self._is_flat, **made}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` said."""
        if self._is_flat and not state["is_flat"]:
            self._take_apart()
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])

    def release(self, *, keeps: bool = True) -> nn.Module:
        """The model by itself: no gradient, and, if it is kept, memory of its own. The end of this replica."""
        for p in self.parameters:
            p.grad = None
            if keeps:
                p.data = p.detach().clone()
        return self.model
