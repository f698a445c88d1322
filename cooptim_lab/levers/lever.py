"""What a lever is, and which there are.

This module imports no torch: the kernel reads and writes plans by it.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeGuard

from ..errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

STRUCTURE, PARAMETERS, TRAINING, HARDWARE = "structure", "parameters", "training", "hardware"
GROUPS = (STRUCTURE, PARAMETERS, TRAINING, HARDWARE)
"""What of the pair is changed: the network, its numbers, how it is trained, what it runs on."""
KINDS: dict[str, type[Lever]] = {}
"""Every lever by its name. A plan names and applies them by their groups, in each in this order."""


@dataclass(frozen=True)
class Seen:
    """What a lever is told of a task before it is tried, on a rank."""

    network: nn.Module
    """A copy, in training mode."""
    optimizer: torch.optim.Optimizer
    """Over its parameters."""
    x: Tensor
    """A batch, shape (rows, ...)."""
    y: Tensor
    rows: int
    """That are trained on."""
    batch: int
    """Rows of a step, where no lever changes them."""
    cpus: int
    """That one process may keep busy."""


@dataclass(frozen=True)
class Lever:
    """One thing that can be changed, and to what. A lever of your own is a subclass, which a cell may define:

    give it a `name`, and override what it changes; the rest stays as it is. Named in `--levers` or in a plan it is used
    like any other.

    Parameters
    ----------
    value
        To what, where `kind` is a number; else None.

    Raises
    ------
    InputError
        For a value that it does not take.
    """

    value: float | int | None = None

    name: ClassVar[str] = ""
    """In a plan; of letters, digits, - and _. Without one it is no lever yet."""
    group: ClassVar[str] = TRAINING
    help: ClassVar[str] = ""
    """A line."""
    kind: ClassVar[type[int] | type[float] | None] = None
    """Of the value: None where it is on or off."""
    least: ClassVar[float] = 0
    """Of the value, itself left out where it is 0."""
    changes: ClassVar[bool] = False
    """Whether it can change what is learned, beyond the rounding of the numbers' last place."""
    excludes: ClassVar[tuple[str, ...]] = ()
    """Names of levers beside which it cannot be."""
    ways: ClassVar[tuple[str, ...]] = ("baseline", "subnets", "sharded")
    """Of training, which obey it."""
    way: ClassVar[str] = ""
    """To which it turns the network as it is; empty: it does not."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if not cls.name:
            return
        if not cls.name.replace("-", "").replace("_", "").isalnum():
            raise InputError(f"the lever {cls.__name__} has the name {cls.name!r}: use letters, digits, - and _")
        if cls.group not in GROUPS:
            raise InputError(f"the lever {cls.name} has the group {cls.group!r}: choose one of {', '.join(GROUPS)}")
        KINDS[cls.name] = cls  # a cell that is run again puts its class in the older one's place

    def __post_init__(self) -> None:
        kind, value = self.kind, self.value
        if kind is None:
            if value is not None:
                raise InputError(f"the lever {self.name} takes no value: write {self.name}")
            return
        if not _is_number(value) or value < self.least or value <= 0 or (kind is int and value % 1):
            what = "a whole number" if kind is int else "a number"
            bound = f" of {self.least:g} or more" if self.least else " above 0"
            raise InputError(f"the lever {self.name} has the value {value}: give {what}{bound}, {self.name}=...")
        object.__setattr__(self, "value", kind(value))

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value:g}"

    @property
    def is_setting(self) -> bool:
        """Whether a loop of the user's own can be given it: no other network, and no other way of training it."""
        return not self.way and "baseline" in self.ways and not self.options().keys() - {"batch"}

    # What is asked before it is tried. Both on a rank.

    def why_not(self, seen: Seen) -> str:
        """Why it does not apply to a task here, in a few words; empty where it does."""
        return ""

    @classmethod
    def tried(cls, seen: Seen) -> Iterable[Lever]:
        """What of it is worth a trial, where nobody says."""
        return [cls()] if cls.kind is None else []

    def paced(self) -> Lever:
        """One whose steps take as long as most of its own: timed in its place."""
        return self

    # What it changes.

    def options(self) -> Mapping[str, Any]:
        """Of the way of training, options and their values."""
        return {}

    def around(self) -> AbstractContextManager[Any]:
        """How the process is set, on every rank, while it trains. (Scores: see `preparing.arithmetic`.)"""
        return nullcontext()

    def change_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Change one that was just made, in place."""

    # What it changes of a network that trains as it is, in one process (`ways` must not name others).

    def change_network(self, network: nn.Module) -> nn.Module:
        """The network to be trained: the one given, changed in place, or another."""
        return network

    def change_rows(self, x: Tensor) -> Tensor:
        """The rows of X that are trained on."""
        return x

    def forward(self) -> AbstractContextManager[Any]:
        """Around each forward pass of training, and the loss."""
        return nullcontext()

    def give_back(self, network: nn.Module) -> nn.Module:
        """What is scored, and in the end handed over: a plain network again, the one given or a copy."""
        return network


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def find_kind(name: str) -> type[Lever]:
    """The lever of that name.

    Raises
    ------
    InputError
    """
    if name not in KINDS:
        near = difflib.get_close_matches(name, KINDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(KINDS)}"
        raise InputError(f"there is no lever {name}: {hint}")
    return KINDS[name]
