"""Who updates a stack's parameters: the task's optimizer, by the rules that it has for ONE subnet.

What a stack holds has one axis more than a subnet's own parameters, and other names. So an optimizer that treats
parameters by their shape or name is asked what it would do with one subnet; what updates the stack has the same groups
and settings. Where it treats every number by itself, each group is laid end to end: one update in place of one per
parameter.

A bound on the gradient is one for each subnet. Of a learning rate that follows the steps, the scheduler drives the
optimizer that was asked, and the others have its settings. Losses are not known here, nor how a step goes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...preparing.building import remade
from ...preparing.modes import has_modes
from ...preparing.optimizers import treats_numbers_alone, use_fused
from ...training.stepping import NO_DIVISION_BY_ZERO, clip
from .stacks import Stack


@dataclass(frozen=True)
class Rules:
    """How parameters are updated.

    Attributes
    ----------
    make
        (parameters, their names) -> an optimizer.
    schedule
        An optimizer -> a scheduler that is stepped after every step; None: of none.
    clip
        The largest norm of a subnet's gradient; None: there is no bound.
    """

    make: Callable[[Sequence[Tensor], Sequence[str]], torch.optim.Optimizer]
    schedule: Callable[[torch.optim.Optimizer], Any] | None = None
    clip: float | None = None


class Updater:
    """Of one stack.

    Parameters
    ----------
    is_flat
        Whether parameters may be laid end to end: every one gets a gradient in every step.
    done
        Steps that were made before.

    Attributes
    ----------
    held : list[tuple[Tensor, tuple[str, ...]]]
        What the optimizer updates, in its order, each with the names of the parameters that lie in it end to end.
    """

    def __init__(self, stack: Stack, rules: Rules, *, is_flat: bool = True, done: int = 0) -> None:
        named, own = stack.parameters(), stack.states()[0]
        one = {name: nn.Parameter(own[name].clone()) for name in named}
        asked = rules.make(list(one.values()), list(one))
        names = {id(p): name for name, p in one.items()}
        groups = [[names[id(p)] for p in group["params"]] for group in asked.param_groups]
        self._each = [named[name] for group in groups for name in group]
        self._is_single, self._clip, self.done = stack.engine == "separate", rules.clip, done
        self._flats: list[Tensor] = []
        if is_flat and treats_numbers_alone(asked):
            self.held, sizes = _laid_flat(named, groups)
            self._flats = [flat for flat, _ in self.held]
            flats = iter(self._flats)
            self.optimizer = remade(asked, [[next(flats) for _ in range(count)] for count in sizes])
            use_fused(self.optimizer)
            for group in self.optimizer.param_groups:
                if "capturable" in group and self._flats[0].is_cuda:
                    group["capturable"] = True  # its count of steps then lives on the GPU too
        else:
            self.held = [(named[name], (name,)) for group in groups for name in group]
            if self._is_single:
                asked = self.optimizer = rules.make(list(named.values()), list(named))
            else:
                self.optimizer = remade(asked, [[named[name] for name in group] for group in groups])
        self._schedule = None if rules.schedule is None else _Schedule(rules.schedule, asked, self.optimizer, done)
        if has_modes(self.optimizer):
            self.optimizer.train()  # type: ignore[attr-defined]

    def zero_grad(self) -> None:
        if not self._flats:
            self.optimizer.zero_grad()
        for flat in self._flats:
            assert flat.grad is not None
            flat.grad.zero_()

    def step(self, *, has_gradient: bool = True) -> None:
        """One step; without a gradient no number is touched, but the learning rate goes on."""
        if has_gradient:
            if self._clip is not None and self._is_single:
                clip(self._each, self._clip)
            elif self._clip is not None:
                clip_each([p.grad for p in self._each if p.grad is not None], self._clip)
            self.optimizer.step()
        self.done += 1
        if self._schedule is not None:
            self._schedule.step()


class _Schedule:
    """A scheduler that drives `lead`, whose settings another optimizer of the same groups has."""

    def __init__(
        self, make: Callable[[torch.optim.Optimizer], Any], lead: Any, other: torch.optim.Optimizer, done: int
    ) -> None:
        self._scheduler = make(lead)
        self._groups = list(zip(lead.param_groups, other.param_groups, strict=True))
        lead._opt_called = True  # torch's schedulers ask whether it was stepped; it has nothing to step
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(done):
                self._scheduler.step()
        self._tell()

    def step(self) -> None:
        self._scheduler.step()
        self._tell()

    def _tell(self) -> None:
        for lead, other in self._groups:
            for name, value in lead.items():
                if name in _ITS_OWN:
                    continue
                if not isinstance(value, Tensor):
                    other[name] = value
                elif name in other:
                    other[name].copy_(value)


_ITS_OWN = frozenset(("params", "param_names", "fused", "foreach", "capturable"))
"""Settings of a group that a scheduler does not change, and that say how this optimizer computes."""


def _laid_flat(
    named: dict[str, Tensor], groups: Sequence[Sequence[str]]
) -> tuple[list[tuple[Tensor, tuple[str, ...]]], list[int]]:
    """For each group and dtype one tensor, of which the parameters become views, as their gradients of its gradient.

    Returns these, with the names of what lies in them, and how many each group has.
    """
    held: list[tuple[Tensor, tuple[str, ...]]] = []
    counts = []
    for group in groups:
        dtypes = list(dict.fromkeys(named[name].dtype for name in group))
        counts.append(len(dtypes))
        for dtype in dtypes:
            names = [name for name in group if named[name].dtype == dtype]
            same = [named[name] for name in names]
            flat = torch.cat([p.detach().flatten() for p in same]).requires_grad_()
            flat.grad = torch.zeros_like(flat)
            sizes = [p.numel() for p in same]
            pairs = zip(flat.detach().split(sizes), flat.grad.split(sizes), strict=True)
            for p, (value, grad) in zip(same, pairs, strict=True):
                p.data, p.grad = value.view_as(p), grad.view_as(p)
            held.append((flat, tuple(names)))
    return held, counts


def clip_each(gradients: Sequence[Tensor], most: float) -> None:
    """Scale the gradients (members, ...) of every member, all of them together, to a norm of `most` where it is larger.

    In place; of each as `torch.nn.utils.clip_grad_norm_`.
    """
    norms = [torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1) for g in gradients]
    norm = torch.linalg.vector_norm(torch.stack([each.to(norms[0].dtype) for each in norms]), dim=0)
    scale = (most / (norm + NO_DIVISION_BY_ZERO)).clamp(max=1.0)
    for g in gradients:
        g.mul_(scale.to(g.dtype).view(-1, *[1] * (g.dim() - 1)))
