"""One rank's copy of the model: all its weights in one flat buffer, all its gradients in another.

Nothing is copied to send them, and one pass of an optimizer updates them all. Behind both lie a few numbers by which
ranks agree on what concerns all of them: they travel with every exchange and cost nothing of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...preparing.building import build_optimizer, remade, trained
from ...preparing.hooks import hooked
from ...preparing.optimizers import treats_numbers_alone, use_fused
from ...task import Task
from ...training.stepping import clip_flat, make_scheduler

CONTROL = 5
"""Numbers behind the gradient: the weighted loss; ranks that wish to stop; ranks whose loss is not finite, and the sum
of their numbers; whether times are to be shared after this exchange."""


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
    unused
        Names of parameters that may get no gradient in a step. One that got none on any rank is not touched, as in one
        process: which those were travels behind the gradient.

    Attributes
    ----------
    count : int
        Numbers that are trained.
    weights, gradient : Tensor
        (count + behind,), of the parameters' dtype.
    behind : int
        Numbers behind the gradient: for each parameter whether it got one, where some may not; then CONTROL.
    control : numpy.ndarray
        A view of what is behind the gradient, (CONTROL,).
    within : contextlib.AbstractContextManager
        What is on while a gradient is computed.

    Raises
    ------
    InputError
        When the parameters are not all float32 or all float64: MPI adds no others.
    """

    def __init__(
        self, model: nn.Module, task: Task, steps: int = 0, unused: Collection[str] = (), *, is_trial: bool = False
    ) -> None:
        self.model, self._clip = model, task.clip
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
        self.behind = CONTROL + (len(self.parameters) if unused else 0)
        self.weights = torch.zeros(self.count + self.behind, dtype=self.parameters[0].dtype)
        self.gradient = torch.zeros_like(self.weights)
        self.control = self.gradient[-CONTROL:].numpy()
        self._touched = self.gradient[self.count : -CONTROL]
        self._may_be_untouched = bool(unused)
        self._is_absent = False
        self._weight = torch.ones((), dtype=self.weights.dtype)
        self._weight_now = 1.0
        optimizer = build_optimizer(task, self.parameters, names)
        for p, value, grad in zip(self.parameters, self.views(self.weights), self.views(self.gradient), strict=True):
            value.copy_(p.detach())
            p.data, p.grad = value, grad
        groups = [group["params"] for group in optimizer.param_groups]
        is_whole = len(groups) == 1 and list(map(id, groups[0])) == list(map(id, self.parameters))
        self._is_flat = treats_numbers_alone(optimizer) and is_whole and not unused
        if self._is_flat:
            flat = self.weights[: self.count].detach().requires_grad_()
            flat.grad = self.gradient[: self.count]
            optimizer = remade(optimizer, [[flat]])
            use_fused(optimizer)
        self.optimizer = optimizer
        self.scheduler = make_scheduler(task, optimizer, steps, is_trial=is_trial)
        self._is_hooked = bool(hooked(model))
        self._hooks = [
            p.register_post_accumulate_grad_hook(self._touch(place))
            for place, p in enumerate(self.parameters if unused else ())
        ]

    def _touch(self, place: int) -> Callable[[Tensor], None]:
        def touched(parameter: Tensor) -> None:
            self._touched[place] = int(parameter.grad is not None)  # a hook of the model's own may have taken it

        return touched

    def views(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat buffer in the parameters' shapes, in their order."""
        parts = flat[: self.count].split([p.numel() for p in self.parameters])
        return [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]

    def touch_none(self) -> None:
        """The next gradient is of a row that is not in the batch: whatever parameter it is for, none has got one."""
        self._is_absent = True

    def backward(self, loss: Callable[[], Tensor] | None, weight: float) -> float:
        """Put `weight` times the gradient of a loss into the buffer, zeros where there is none; returns the loss."""
        self.gradient.zero_()
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
            self._touched.zero_()
            self._is_absent = False
        return value.item()

    def _take_over(self) -> None:
        """What hooks have put in the place of gradients is what is meant."""
        for p, view in zip(self.parameters, self.views(self.gradient), strict=True):
            if p.grad is None:
                view.zero_()
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
        if self._clip is not None:
            clip_flat(self.gradient[: self.count], self._clip)
        if self._may_be_untouched:
            for p, view, times in zip(self.parameters, self.views(self.gradient), self._touched.tolist(), strict=True):
                p.grad = view if times else None
        self.optimizer.step()
        if not self._is_flat:  # there may be none in some, and a hook may have put others in their places
            for p, view in zip(self.parameters, self.views(self.gradient), strict=True):
                p.grad = view

    def state(self) -> dict[str, Any]:
        """What optimizer and scheduler remember."""
        made = {} if self.scheduler is None else {"scheduler": self.scheduler.state_dict()}
        return {"optimizer": self.optimizer.state_dict(), **made}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` said."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])

    def release(self) -> nn.Module:
        """The model by itself: its parameters hold their own memory, and no gradient. The end of this replica."""
        for hook in self._hooks:
            hook.remove()
        for p in self.parameters:
            p.data, p.grad = p.detach().clone(), None
        return self.model
