"""Training and evaluation mode, of networks and of optimizers that have them, put and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from .arithmetic import as_given


def put(network: nn.Module, *, training: bool) -> nn.Module:
    """The network in that mode. A `train` of the user's own may return nothing, and keep some layers as they are."""
    network.train() if training else network.eval()
    return network


@contextmanager
def evaluating(network: nn.Module, optimizer: Any = None) -> Iterator[None]:
    """While it lasts, evaluation mode, and arithmetic as the user has it.

    Afterwards every module is in the mode that it was in, frozen ones too.

    An optimizer with modes of its own (schedule-free ones hold other weights while they train) changes its too.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    if has_modes(optimizer):
        optimizer.eval()
    try:
        with as_given():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        if has_modes(optimizer):
            optimizer.train()


def enter_training(optimizer: Any) -> None:
    """At the start of training, of an optimizer with modes of its own."""
    if has_modes(optimizer):
        optimizer.train()


def leave_training(optimizer: Any) -> None:
    """At the end of training, of an optimizer with modes of its own: the weights become those that it has found."""
    if has_modes(optimizer):
        optimizer.eval()


def has_modes(optimizer: Any) -> bool:
    """Whether an optimizer must be told when training begins and ends."""
    return callable(getattr(optimizer, "train", None)) and callable(getattr(optimizer, "eval", None))
