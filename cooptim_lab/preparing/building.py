"""A task's network and its optimizer, made on a rank; and copies of a network, made in one way for the whole engine."""

from __future__ import annotations

import inspect
import io
import pickle
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..data.values import first_line
from ..errors import InputError
from ..task import Task
from .hooks import HookPickler, own_steps
from .modes import put
from .seeds import seed_all

FUNCTIONS = ("loss", "optimizer", "named", "scheduler")
"""Of a task, what may remember how often it was called."""
Named = tuple[str, Tensor]
"""A parameter and its name."""


def build_model(model: Any, seed: int) -> nn.Module:
    """A fresh copy of a module, or of what a callable makes under `seed`, which all generators then have (`seed_all`).

    Raises
    ------
    InputError
        When a callable does not return a module, or the module has nothing to train.
    """
    if isinstance(model, nn.Module):
        built = copied("the model", model)
    else:
        seed_all(seed)
        built = model()
        if not isinstance(built, nn.Module):
            raise InputError(f"model() returned a {type(built).__name__}: it must return an nn.Module")
        built = copied("the model", built)  # it may return one and the same each time
    if any(nn.parameter.is_lazy(p) for p in built.parameters()):
        raise InputError("the model has a lazy layer that has no size yet: run a batch through it, or write the size")
    if not any(p.requires_grad for p in built.parameters()):
        raise InputError("the model has no parameter to train")
    if any(p.is_floating_point() and p.isnan().any() for p in built.parameters()):
        raise InputError("the model has weights that are NaN before it was trained: give it finite ones")
    return put(built, training=True)


def packed(what: str, network: nn.Module, *others: nn.Module) -> bytes:
    """A network, and others that share with it, as bytes: closures over it and all hooks come along, by value.

    torch's own deepcopy leaves functions as they are, so a copy whose forward calls `lambda x: self.net(x)` would
    compute with the network that it is a copy of.

    Raises
    ------
    InputError
        When it has something that cannot be carried along, named as `what`, or two tensors over one memory.
    """
    kept = [each for one in (network, *others) for each in _keep_values(one)]
    stream = io.BytesIO()
    try:
        HookPickler(stream).dump((network, others))
        return stream.getvalue()
    except InputError:
        raise
    except Exception as error:
        why = first_line(error).partition(". ")[0]
        raise InputError(
            f"{what} cannot be copied ({why}): leave out what is no data (a lock, a file, a generator), and end a "
            "pruning by prune.remove"
        ) from error
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)


def _keep_values(network: nn.Module) -> list[tuple[Any, str, Tensor]]:
    """Take results of a computation that modules have kept as attributes for what they are: values; to be put back."""
    kept = []
    for module in network.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor) and value.requires_grad and not value.is_leaf:
                kept.append((module, name, value))
                setattr(module, name, value.detach())
    return kept


def unpacked(data: bytes) -> nn.Module:
    """The network that `packed` made bytes of."""
    return pickle.loads(data)[0]


def copied(what: str, network: nn.Module) -> nn.Module:
    """A network of its own.

    Raises
    ------
    InputError
        When it has something that cannot be carried along, named as `what`.
    """
    return unpacked(packed(what, network))


def on_trial(task: Task, functions: Sequence[str] = FUNCTIONS) -> Task:
    """The task with copies of its functions, as they are now: what calls these uses nothing up of what trains.

    A loss may count its calls, and share what it counts with a scheduler: they are copied together. The class and
    settings of a ready-made optimizer are all that is taken of it, and a metric is called by nothing that is tried.

    Parameters
    ----------
    functions
        Those that are called. A copy of one that a notebook defines takes 5 ms, as all modules are looked through.

    Raises
    ------
    InputError
        When one of them cannot be copied.
    """
    is_made = isinstance(task.optimizer, torch.optim.Optimizer)
    names = [name for name in functions if getattr(task, name) is not None and (name != "optimizer" or not is_made)]
    if not names:
        return task
    stream = io.BytesIO()
    try:
        HookPickler(stream).dump([getattr(task, name) for name in names])
        return replace(task, **dict(zip(names, pickle.loads(stream.getvalue()), strict=True)))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"loss, optimizer or scheduler cannot be copied ({first_line(error)}), and steps are tried with copies: "
            "leave out what is no data (a lock, a file, a generator)"
        ) from error


def build_optimizer(task: Task, parameters: Sequence[Tensor], names: Sequence[str] = ()) -> torch.optim.Optimizer:
    """The task's optimizer over parameters: by a callable, a class, or a ready-made one whose settings are taken.

    Parameters
    ----------
    names
        Of the parameters, for a task that asks for them (`named`).

    Raises
    ------
    InputError
        When a ready-made optimizer treats groups of parameters differently, has hooks, which may reach what it was made
        for, or remembers steps: none of it can be carried over. When it cannot be made, is none, wants to compute the
        loss itself, or trains something else than it was given.
    """
    given = list(parameters)
    try:
        built = _make(task, given, names)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"optimizer cannot be made of the model's parameters: {first_line(error)}") from error
    if not isinstance(built, torch.optim.Optimizer):
        raise InputError(f"optimizer(parameters) returned a {type(built).__name__}: it must return a torch Optimizer")
    closure = inspect.signature(type(built).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        kind = type(built).__name__
        raise InputError(f"optimizer is {kind}, whose step wants a closure: give one that takes gradients, say Adam")
    own = {id(tensor) for tensor in given}
    held = {id(tensor) for group in built.param_groups for tensor in group["params"]}
    if held - own:
        raise InputError(
            f"optimizer holds {len(held & own)} of the {len(own)} parameters that it is given and {len(held - own)} "
            "others, but what is trained is a copy of the model: use what is given, optimizer = lambda parameters: "
            "...; to go by names, write named = lambda pairs: ... in its place"
        )
    return _of_its_own(built)


def _make(task: Task, parameters: list[Tensor], names: Sequence[str]) -> Any:
    if task.named is not None:
        return task.named(list(zip(names, parameters, strict=True)))
    if task.optimizer is None:
        return torch.optim.Adam(parameters)
    if not isinstance(task.optimizer, torch.optim.Optimizer):
        return task.optimizer(parameters)
    if len(task.optimizer.param_groups) > 1:
        raise InputError(
            "optimizer has several parameter groups: give a function instead, optimizer = lambda parameters: ..."
        )
    if own_steps(task.optimizer):
        raise InputError(
            "optimizer is ready-made and has hooks, or a step, of its own, but what trains is another of its settings: "
            "give a function that makes it and registers them, optimizer = lambda parameters: ..."
        )
    if _has_memory(task.optimizer):
        raise InputError(
            "optimizer is ready-made and has taken steps, but what trains is another of its settings, which would not "
            "know what it remembers of them: give a new one, or a function, optimizer = lambda parameters: ..."
        )
    return remade(task.optimizer, [parameters])


def _has_memory(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it remembers steps. Adagrad has its sums before the first; momentum has no count of steps."""
    return any(
        state.get("step", 1) > 0 and any(value is not None for value in state.values())
        for state in optimizer.state.values()
    )


def remade(optimizer: torch.optim.Optimizer, groups: Sequence[Sequence[Tensor]]) -> torch.optim.Optimizer:
    """One of the same class and settings over other tensors, group by group; it remembers nothing."""
    kind = type(optimizer)
    accepted = inspect.signature(kind).parameters
    kept = [{k: v for k, v in g.items() if k not in ("params", "param_names")} for g in optimizer.param_groups]
    settings = {name: value for name, value in {**optimizer.defaults, **kept[0]}.items() if name in accepted}
    built = kind([{"params": list(tensors)} for tensors in groups], **settings)
    for group, known in zip(built.param_groups, kept, strict=True):
        group.update(known)  # AdamW has some that its constructor does not take
    return _of_its_own(built)


def _of_its_own(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Settings that are tensors become its own: a scheduler writes into them, and a function may give one to many."""
    made: dict[int, Tensor] = {}

    def own(value: Any) -> Any:
        if isinstance(value, tuple):  # betas
            return tuple(own(each) for each in value)
        if not isinstance(value, Tensor):
            return value
        return made.setdefault(id(value), value.detach().clone())

    for group in optimizer.param_groups:
        group.update({name: own(value) for name, value in group.items() if name not in ("params", "param_names")})
    return optimizer


def trained(network: nn.Module) -> list[Named]:
    """The parameters that are to be trained, with their names."""
    return [(name, p) for name, p in network.named_parameters() if p.requires_grad]


def count_parameters(network: nn.Module) -> int:
    """How many numbers the network is made of, the frozen ones too."""
    return sum(p.numel() for p in network.parameters())
