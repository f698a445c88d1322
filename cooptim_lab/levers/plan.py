"""A plan: the levers by which a training differs from the default. Text that is typed, and what the ways obey.

This module imports no torch: the kernel reads and writes plans by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..task import Task
from .lever import GROUPS, KINDS, Lever, find_kind

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

EXAMPLE = "batch=256,lr=4,fused,threads=1"


@dataclass(frozen=True)
class Plan:
    """Levers, at most one of each name, in the order in which they are applied; none of them: the default.

    Written as `str` gives it, "batch=256,lr=4,fused", and read by `read`.

    Raises
    ------
    InputError
        When two of them exclude each other, or are for different ways of training.
    """

    levers: tuple[Lever, ...] = ()

    def __post_init__(self) -> None:
        order = {name: place for place, name in enumerate(KINDS)}  # a rank does not know a cell's own

        def place(lever: Lever) -> tuple[int, int]:
            return GROUPS.index(lever.group), order.get(lever.name, len(order))

        levers = tuple(sorted(self.levers, key=place))
        object.__setattr__(self, "levers", levers)
        names = [lever.name for lever in levers]
        for lever in levers:
            if names.count(lever.name) > 1:
                raise InputError(f"plan = {self}: it has {lever.name} twice; leave one out")
            if found := next((name for name in lever.excludes if name in names), ""):
                raise InputError(f"plan = {self}: {lever.name} and {found} exclude each other; leave one out")
            if self.way and self.way not in lever.ways:
                by = next(one.name for one in levers if one.way)
                raise InputError(f"plan = {self}: {lever.name} does nothing beside {by}; leave one out")

    @classmethod
    def read(cls, text: str | Plan) -> Plan:
        """The plan that a text says.

        Raises
        ------
        InputError
            For what is none, with what a plan looks like.
        """
        if isinstance(text, Plan):
            return text
        if not isinstance(text, str):
            raise InputError(f"plan is a {type(text).__name__}: give a Plan, or its text, as {EXAMPLE!r}")
        return cls(tuple(map(read_lever, filter(None, (part.strip() for part in text.split(","))))))

    def __str__(self) -> str:
        return ",".join(map(str, self.levers))

    def __bool__(self) -> bool:
        return bool(self.levers)

    def __len__(self) -> int:
        return len(self.levers)

    @property
    def way(self) -> str:
        """Of training, to which it turns the network as it is; empty where it does not."""
        return next((lever.way for lever in self.levers if lever.way), "")

    @property
    def changes(self) -> bool:
        """Whether it can change what is learned."""
        return any(lever.changes for lever in self.levers)

    @property
    def options(self) -> Mapping[str, Any]:
        """Of the way of training."""
        return {name: value for lever in self.levers for name, value in lever.options().items()}

    @property
    def settings(self) -> Plan:
        """What of it a loop of the user's own can be given (`apply`)."""
        return Plan(tuple(lever for lever in self.levers if lever.is_setting))

    @property
    def paced(self) -> Plan:
        """One whose steps take as long: timed in its place."""
        return Plan(tuple(lever.paced() for lever in self.levers))

    def with_(self, *levers: Lever) -> Plan:
        """With these in place of those of the same names."""
        return Plan((*self.without(*(lever.name for lever in levers)).levers, *levers))

    def without(self, *names: str) -> Plan:
        """Without the levers of these names."""
        return Plan(tuple(lever for lever in self.levers if lever.name not in names))

    def check(self, way: str) -> None:
        """Refuse a lever that a way of training does not obey.

        Raises
        ------
        InputError
        """
        for lever in self.levers:
            if way not in lever.ways:
                raise InputError(f"plan = {self}: {lever.name} does nothing in {way}; leave it out")

    # What the ways obey. On a rank.

    def of_task(self, task: Task) -> Task:
        """The task with an optimizer as the plan has it."""
        if not any(type(lever).change_optimizer is not Lever.change_optimizer for lever in self.levers):
            return task
        return replace(task, optimizer=None, named=Changed(Source(task.optimizer, task.named), self))

    @contextmanager
    def around(self) -> Iterator[None]:
        """The process as the plan has it, while it lasts."""
        with ExitStack() as stack:
            for lever in self.levers:
                stack.enter_context(lever.around())
            yield

    def of_network(self, network: nn.Module) -> nn.Module:
        """The network that is trained in place of the one given."""
        return reduce(lambda made, lever: lever.change_network(made), self.levers, network)

    def of_rows(self, x: Tensor) -> Tensor:
        """The rows that are trained on in place of those."""
        return reduce(lambda made, lever: lever.change_rows(made), self.levers, x)

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Around each forward pass of training, and the loss."""
        with ExitStack() as stack:
            for lever in self.levers:
                stack.enter_context(lever.forward())
            yield

    @property
    def has_forward(self) -> bool:
        """Whether anything is around a forward pass: where nothing is, a step need not enter it."""
        return any(type(lever).forward is not Lever.forward for lever in self.levers)

    def give_back(self, network: nn.Module) -> nn.Module:
        """A plain network again: the one given, or a copy."""
        return reduce(lambda made, lever: lever.give_back(made), reversed(self.levers), network)


NONE = Plan()
"""The default."""


def read_lever(text: str) -> Lever:
    """A lever by its text: "fused", "batch=256".

    Raises
    ------
    InputError
    """
    name, has_value, number = text.partition("=")
    kind = find_kind(name.strip())
    if not has_value:
        return kind()
    try:
        value = float(number)
    except ValueError:
        raise InputError(f"the lever {name} has the value {number!r}: give a number, as in {EXAMPLE!r}") from None
    return kind(value)


def read_kinds(text: str) -> tuple[str, ...]:
    """Names of levers, by their text: "batch,lr,fused".

    Raises
    ------
    InputError
    """
    return tuple(find_kind(part.strip()).name for part in text.split(",") if part.strip())


@dataclass(frozen=True)
class Source:
    """How a task makes its optimizer: the two fields of `Task` that say it."""

    optimizer: Any
    named: Any


@dataclass(frozen=True)
class Changed:
    """Makes a task's optimizer and changes it as a plan says: a task's `named`."""

    source: Source
    plan: Plan

    def __call__(self, pairs: Iterable[tuple[str, Tensor]]) -> torch.optim.Optimizer:
        from ..preparing.building import build_optimizer

        names, parameters = zip(*pairs, strict=True)
        made = build_optimizer(self.source, parameters, names)  # type: ignore[arg-type]  # all that it reads of a task
        for lever in self.plan.levers:
            lever.change_optimizer(made)
        return made
