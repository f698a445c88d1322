"""What follows a backward pass, in every way: the gradient's norm is bounded, the optimizer steps, the rate follows."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.values import first_line
from ..errors import InputError
from ..task import Task

NO_DIVISION_BY_ZERO = 1e-6
"""As `torch.nn.utils.clip_grad_norm_` has it."""


def make_scheduler(task: Task, optimizer: torch.optim.Optimizer, steps: int, *, is_trial: bool = False) -> Any:
    """The task's learning-rate scheduler over so many steps; None where it has none.

    In a trial, which may make more steps than there are, it stands still after the last: some have a fixed end.

    Raises
    ------
    InputError
        When it cannot be made, or wants to be told a metric.
    """
    if task.scheduler is None:
        return None
    try:
        made = task.scheduler(optimizer, steps)
    except Exception as error:
        raise InputError(f"scheduler cannot be made: {first_line(error)}") from error
    if not hasattr(made, "step"):
        raise InputError(f"scheduler returned a {type(made).__name__}: it must return a torch scheduler")
    wanted = [p for p in inspect.signature(made.step).parameters.values() if p.default is inspect.Parameter.empty]
    if wanted:
        raise InputError(
            f"scheduler is {type(made).__name__}, whose step wants {wanted[0].name}: give one that goes by steps"
        )
    return _Ending(made, steps) if is_trial else made


class _Ending:
    """A scheduler that is stepped so often at the most."""

    def __init__(self, scheduler: Any, steps: int) -> None:
        self._scheduler, self._left = scheduler, steps

    def step(self) -> None:
        if self._left:
            self._left -= 1
            self._scheduler.step()


def clip_flat(gradient: Tensor, most: float) -> None:
    """Scale a gradient (numbers,), all of it, to a norm of `most` where that is larger; in place.

    As `torch.nn.utils.clip_grad_norm_`: Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent neural
    networks", ICML 2013.
    """
    gradient.mul_(clip_factor(gradient, most))


def clip_factor(gradient: Tensor, most: float) -> Tensor:
    """By what `clip_flat` multiplies it, shape ()."""
    return (most / (torch.linalg.vector_norm(gradient) + NO_DIVISION_BY_ZERO)).clamp(max=1.0)


def clip(parameters: Sequence[Tensor], most: float | None) -> None:
    """The same of parameters' gradients together; nothing where there is no bound."""
    if most is not None:
        torch.nn.utils.clip_grad_norm_(parameters, most)
