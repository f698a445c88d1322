"""Task: what is trained. Model, data, loss, optimizer, metric, and if wanted the sub-networks.

A task is a description. It is made in the kernel, travels to the ranks by value and is turned into tensors there
(`preparing.prepare`), so this module imports no torch: what can be checked without it is checked here, the rest there.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import InputError

NAMES = ("model", "data", "loss", "optimizer", "named", "scheduler", "clip", "metric", "subnet", "name")
"""What a cell's body may define. The first two it must."""
ELSEWHERE = {
    "criterion": "loss = criterion",
    "loss_fn": "loss = loss_fn",
    "lr_scheduler": "scheduler = lambda optimizer, steps: ...",
    "sched": "scheduler = lambda optimizer, steps: ...",
    "opt": "optimizer = opt",
    "epochs": "--epochs",
    "n_epochs": "--epochs",
    "num_epochs": "--epochs",
    "batch_size": "--batch",
    "lr": "optimizer = lambda parameters: torch.optim.Adam(parameters, lr=lr)",
    "seed": "--seed",
    "net": "model = net",
    "max_norm": "clip = max_norm",
    "train_loader": "data = its Dataset",
    "test_loader": "held_out rows are drawn from data",
    "train_data": "data = train_data",
}
"""Names that other code has for what a task says, and how it says it."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A network and what it is to learn.

    Parameters
    ----------
    model : torch.nn.Module, or a callable that makes one
        A module is trained from the weights it has; a callable (a class, a function) is called on the ranks under the
        run's seed, so every seed starts from its own weights. The module given is never changed.
    data : (X, y), a torch Dataset with a length, or a callable that returns one of these
        X of shape (rows, ...), y of shape (rows, ...): arrays, tensors or nested lists. Whole-number labels make it a
        classification, others a regression. A callable is called on the ranks: nothing is sent. Of an array that maps a
        file (np.memmap) its path is sent, and every rank reads what it needs.
    loss : callable (outputs, targets) -> scalar tensor, optional
        The mean over the rows. Default: cross-entropy for whole-number labels, mean squared error otherwise.
    optimizer : callable (parameters) -> Optimizer, an Optimizer class, or an Optimizer, optional
        Of an optimizer that is given ready-made, the class and its settings are used. Default: Adam, lr 0.001.
    named : callable (pairs of name and parameter) -> Optimizer, optional
        In place of `optimizer`, for one that goes by the names of parameters.
    scheduler : callable (optimizer, steps) -> torch learning-rate scheduler, optional
        Stepped after every step of training; `steps` are those of the whole training.
    clip : float, optional
        The norm of the gradient, over all parameters and all ranks, is scaled down to so much before a step.
    metric : callable (outputs, targets) -> float, optional
        Reported on held-out data. Default: accuracy where outputs say classes, otherwise the loss.
    subnet : callable (i) -> torch.nn.Module, optional
        Makes sub-network i. Default: a narrower copy of the model.
    held_out : float
        The part of the rows that is never trained on and always scored, 0 < held_out < 1.
    seed : int
        Of the choice of the held-out rows. The seed of weights and order belongs to a run.
    name : str
        For tables and the record of runs.

    Raises
    ------
    InputError
        When a field cannot be what it should be.
    """

    model: Any
    data: Any
    loss: Callable[[Any, Any], Any] | None = None
    optimizer: Any = None
    named: Callable[[Any], Any] | None = None
    scheduler: Callable[[Any, int], Any] | None = None
    clip: float | None = None
    metric: Callable[[Any, Any], Any] | None = None
    subnet: Callable[[int], Any] | None = None
    held_out: float = 0.2
    seed: int = 0
    name: str = "your task"

    def __post_init__(self) -> None:
        if not callable(self.model):
            raise InputError(f"model is a {_kind(self.model)}: give an nn.Module, or a function that returns one")
        check_data(self.data)
        for name in ("loss", "metric", "subnet", "named", "scheduler"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                of = "of (optimizer, steps)" if name == "scheduler" else "of (outputs, targets)" * (name != "subnet")
                raise InputError(f"{name} is a {_kind(value)}: give a function {of}".rstrip())
        if self.subnet is not None and not _takes(self.subnet, 1):
            raise InputError(f"subnet is {_signature(self.subnet)}: give a function of the number, def subnet(i)")
        for name in ("loss", "metric"):
            if isinstance(getattr(self, name), type):
                raise InputError(
                    f"{name} is the class {getattr(self, name).__name__}: write {getattr(self, name).__name__}()"
                )
        if self.named is not None and self.optimizer is not None:
            raise InputError("optimizer and named are both given: named makes the optimizer, leave the other out")
        if self.scheduler is not None and not _takes(self.scheduler, 2):
            raise InputError(
                f"scheduler is {_signature(self.scheduler)}: give a function of the optimizer and the number of steps, "
                "scheduler = lambda optimizer, steps: ..."
            )
        if self.clip is not None and (isinstance(self.clip, bool) or not isinstance(self.clip, (int, float))):
            raise InputError(f"clip is a {_kind(self.clip)}: give the largest norm of a gradient, a number above 0")
        if self.clip is not None and not 0 < self.clip < float("inf"):
            raise InputError(f"clip = {self.clip}: give the largest norm of a gradient, a number above 0")
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"name is {self.name!r}: give a word or two for tables")
        # Not `callable` alone: an optimizer that is ready-made is known by its parameter groups.
        if self.optimizer is not None and not (callable(self.optimizer) or hasattr(self.optimizer, "param_groups")):
            raise InputError(
                f"optimizer is a {_kind(self.optimizer)}: give an Optimizer, or a function of the parameters"
            )
        if not isinstance(self.model, type) and hasattr(self.model, "parameters"):
            held = {id(p) for group in getattr(self.optimizer, "param_groups", ()) for p in group["params"]}
            trained = {id(p) for p in self.model.parameters() if p.requires_grad}
            if held & trained and trained - held:
                raise InputError(
                    f"optimizer has {len(held & trained)} of the model's {len(trained)} parameters: "
                    "give it all, and freeze those that are not to be trained (p.requires_grad_(False))"
                )
        if not (isinstance(self.held_out, (int, float)) and 0 < self.held_out < 1):
            raise InputError(f"held_out = {self.held_out}: must lie between 0 and 1, say 0.2")

    @classmethod
    def from_names(cls, names: Mapping[str, Any], **options: Any) -> Task:
        """A task from what a cell's body defined (`names`: every name that it bound).

        Raises
        ------
        InputError
            When `model` or `data` is not among them, with the nearest name that is.
        """
        if not names:
            raise InputError(
                "the body is empty: define model and data in it, e.g. model = nn.Sequential(...), data = (X, y)"
            )
        for required in NAMES[:2]:
            if required not in names:
                near = difflib.get_close_matches(required, [n for n in names if n not in NAMES], n=1)
                hint = f"did you mean {required} = {near[0]}?" if near else f"it defines {', '.join(sorted(names))}"
                raise InputError(f"the body does not define {required}: {hint}")
        return cls(**{name: names[name] for name in NAMES if name in names}, **options)


def misspelt(names: Mapping[str, Any]) -> list[str]:
    """Of a cell's names, those that were not used and look like one that a task may have: a line on each."""
    free = {n: v for n, v in names.items() if n not in NAMES and not inspect.ismodule(v) and not isinstance(v, type)}
    used = {id(names[name]) for name in NAMES if name in names}
    found = [
        f"{name} is not used: a task says {said}"
        for name, said in ELSEWHERE.items()
        if name in free and id(free[name]) not in used
    ]
    others = {n.lower(): n for n in free if n not in ELSEWHERE}
    for optional in NAMES[2:]:
        if optional not in names:
            near = difflib.get_close_matches(optional, others, n=1, cutoff=0.8)
            found += [f"{others[name]} is not used: did you mean {optional} = ...?" for name in near]
    return found


def check_data(data: Any) -> None:
    """Refuse data that is not (X, y) of equal length, a Dataset with a length, or a callable.

    Raises
    ------
    InputError
    """
    if isinstance(data, (tuple, list)):
        if len(data) != 2:
            raise InputError(f"data has {len(data)} parts: give two, (X, y)")
        rows = []
        for name, part in zip(("X", "y"), data, strict=True):
            try:
                rows.append(len(part))
            except TypeError:  # nothing with rows; a single number; scipy's sparse arrays, which have two lengths
                dense = f"give {name}.toarray()" if hasattr(part, "toarray") else "give an array, a tensor or a list"
                raise InputError(f"{name} is a {_kind(part)}: {dense}") from None
        if rows[0] != rows[1]:
            raise InputError(f"X has {rows[0]} rows and y has {rows[1]}: they must have the same number")
        if rows[0] < 2:
            raise InputError(f"data has {rows[0]} rows: give at least 2, one to train on and one to hold out")
    elif isinstance(data, (str, bytes, Mapping)) or hasattr(data, "dtype"):
        raise InputError(f"data is a {_kind(data)}: give (X, y), the rows and their labels")
    elif any(kind.__name__ == "IterableDataset" for kind in type(data).__mro__):
        raise InputError(
            f"data is a {_kind(data)}, an IterableDataset, which has no rows to choose from: give (X, y), or a Dataset "
            "with a length, __getitem__ and __len__"
        )
    elif hasattr(data, "__getitem__"):
        if not hasattr(data, "__len__"):
            raise InputError(f"data is a {_kind(data)} without a length: give (X, y) or a Dataset with __len__")
    elif not callable(data):
        raise InputError(f"data is a {_kind(data)}: give (X, y), a torch Dataset, or a function that returns one")


def _takes(function: Any, arguments: int) -> bool:
    """Whether it can be called with so many."""
    if hasattr(function, "forward") and not isinstance(function, type):  # a module, which takes a batch
        return False
    try:
        inspect.signature(function).bind(*range(arguments))
    except TypeError:
        return False
    except ValueError:  # written in C: nobody knows
        return True
    return True


def _signature(function: Any) -> str:
    if isinstance(function, type) or hasattr(function, "forward"):
        return f"the class {function.__name__}" if isinstance(function, type) else f"a {_kind(function)}"
    return f"{getattr(function, '__name__', _kind(function))}{inspect.signature(function)}"


def _kind(value: Any) -> str:
    return type(value).__name__
