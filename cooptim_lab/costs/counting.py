"""Counts a step of training: operations, bytes, calls, by layer, forward and backward. On a rank.

One step is made under a `TorchDispatchMode`, which sees every operator. In the forward pass an operator belongs to the
innermost module that is being called; in the backward pass to the module in whose call the node of the graph was made,
which autograd's sequence numbers tell, so that residual branches and layers that are called twice are told apart.
"""

from __future__ import annotations

import bisect
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ..preparing.building import trained
from .products import FORMULAS
from .work import Call, Layer, Step, Work

LOSS, OPTIMIZER = "(loss)", "(optimizer)"
"""Where an operator belongs that is in no module."""
LOOKED_UP = ("embedding", "index", "index_select", "gather")
"""Operators that read of their first input only what they give."""
UNWRITTEN = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")
"""Operators that take memory and leave it as it is."""
ROUNDS = 7
LEAST_SECONDS = 0.002
"""A layer is called so long in a round: one call of a small one would be lost in the clock."""
MOST_CALLS = 200


class Counter(TorchDispatchMode):
    """While it is entered, and `network` is called, every operator counts to its layer.

    Attributes
    ----------
    works
        By (layer, whether backward).
    order
        The layers as they were first called.
    """

    supports_higher_order_operators = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.works: dict[tuple[str, bool], Work] = defaultdict(Work)
        self.order: dict[str, None] = {}
        self.outside = LOSS
        """Where operators outside of all modules belong."""
        self._others = FlopCounterMode(display=False).flop_registry  # torch's formulas, for what ours do not know
        self._inside: list[str] = []
        self._starts: list[int] = [0]  # of the graph's nodes from this number on …
        self._owners: list[str] = [LOSS]  # … this is the layer
        self._names = {module: name for name, module in network.named_modules()}
        self._homes = {id(p): name for name, module in network.named_modules() for p in module.parameters(False)}

    @contextmanager
    def watching(self) -> Iterator[Counter]:
        """The calls of the network's modules are followed, and operators counted."""
        # Hooks of all modules, not of these: a module that has some of its own leaves the fast path of evaluation.
        hooks = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        try:
            with self:
                yield self
        finally:
            for hook in hooks:
                hook.remove()

    def _enter(self, module: nn.Module, given: Any) -> None:
        if module in self._names:
            self._inside.append(self._names[module])
            self.order.setdefault(self._names[module])
            self._mark()

    def _leave(self, module: nn.Module, given: Any, outputs: Any) -> None:
        if module in self._names and self._inside:
            self._inside.pop()
            self._mark()

    def _mark(self) -> None:
        """Nodes that are made from now on belong where we are."""
        self._starts.append(torch.autograd._get_sequence_nr())
        self._owners.append(self._here())

    def _here(self) -> str:
        return self._inside[-1] if self._inside else self.outside

    def _owner(self) -> tuple[str, bool]:
        """The layer of the operator that is called now, and whether this is its backward pass."""
        node = torch._C._current_autograd_node()
        if node is None:
            return self._here(), False
        number = node._sequence_nr()
        if number > torch.autograd._get_sequence_nr():  # a gradient is put into its place: such nodes have no number
            return self._homes.get(id(getattr(node, "variable", None)), LOSS), True
        return self._owners[bisect.bisect_right(self._starts, number) - 1], True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            return func(*args, **kwargs)
        packet = func._overloadpacket
        if packet not in FORMULAS and packet not in self._others:
            with self:  # in inference mode an operator may come whole that is made of others
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        self.works[self._owner()] += work_of(func, args, kwargs, out, self._others)
        return out


def work_of(func: Any, args: Any, kwargs: Any, out: Any, others: dict[Any, Any]) -> Work:
    """What one call of an operator computes and moves."""
    packet = func._overloadpacket
    name = packet.__name__
    given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    made = [each for each in tree_leaves(out) if isinstance(each, Tensor)]
    changed = list(_changed(func, args, kwargs))
    known = {storage for each in given if (storage := _storage(each)) is not None}
    fresh = [each for each in made if _storage(each) not in known or _storage(each) is None]
    if name in UNWRITTEN or (made and not changed and not fresh):
        return Work(views=1)
    read = [*given[1:], *made] if name in LOOKED_UP else given
    moved = sum(map(size, (*read, *fresh, *changed)))
    products = tuple(FORMULAS[packet](*args, **kwargs, out=out)) if packet in FORMULAS else ()
    operations = sum(product.operations for product in products)
    if not products and packet in others:
        operations = others[packet](*args, **kwargs, out_val=out)
    calls = (Call(name, moved, products, operations),)
    return Work(operations, moved, 1, 0, products, moved if operations else 0, calls)


def _changed(func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    """The tensors that it writes into."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            yield from (each for each in tree_leaves(value) if isinstance(each, Tensor))


def _storage(tensor: Tensor) -> int | None:
    """Where its numbers lie; None for what has no memory of that kind (a sparse tensor) or none at all."""
    try:
        return tensor.untyped_storage().data_ptr() or None
    except (RuntimeError, NotImplementedError):
        return None


def size(tensor: Tensor) -> int:
    """Bytes of its numbers: what is only repeated (expanded) counts once."""
    if tensor.layout is not torch.strided:
        return sum(map(size, (tensor._indices(), tensor._values()))) if tensor.layout is torch.sparse_coo else 0
    if tensor.is_nested:
        return tensor.numel() * tensor.element_size()
    count = 1
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= length if stride else min(1, length)
    return count * tensor.element_size()


def count_step(
    network: nn.Module,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    *,
    name: str = "",
) -> Step:
    """Make a step of training, and count it. It is the second: in the first an optimizer makes what it remembers.

    Parameters
    ----------
    x, y
        A batch: shapes (rows, ...).

    Returns
    -------
    Step
        Its layers have no seconds: see `time_layers`.
    """

    def step() -> None:
        optimizer.zero_grad()
        loss_function(network(x), y).backward()

    step()
    optimizer.step()
    counter = Counter(network)
    with counter.watching():
        step()
        counter.outside = OPTIMIZER
        optimizer.step()
    return make_step(counter, network, x, name)


def make_step(counter: Counter, network: nn.Module, x: Tensor, name: str) -> Step:
    """What was counted, by layer: modules without any work of their own are left out."""
    works, modules = counter.works, dict(network.named_modules())

    def own(module: nn.Module) -> int:
        """Parameters of it, and of those inside it that are never called: attention computes with its last layer's."""
        inside = (child for child in module.children() if child in uncalled)
        return sum(p.numel() for p in module.parameters(recurse=False)) + sum(map(own, inside))

    uncalled = {module for name, module in modules.items() if name not in counter.order}
    layers = [
        Layer(
            name=layer,
            kind=type(modules[layer]).__name__,
            parameters=own(modules[layer]),
            forward=works[layer, False].merged(),
            backward=works[layer, True].merged(),
        )
        for layer in counter.order
        if works[layer, False] != Work() or works[layer, True] != Work()
    ]
    of_training = [p for _, p in trained(network)]
    return Step(
        name=name,
        rows=len(x),
        precision=str(next(iter(of_training)).dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        layers=tuple(layers),
        loss=(works[LOSS, False] + works[LOSS, True]).merged(),
        optimizer=works[OPTIMIZER, False].merged(),
        parameters=sum(p.numel() for p in of_training),
        tensors=len(of_training),
    )


def time_layers(network: nn.Module, x: Tensor, layers: Iterable[str], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds of the forward pass of each of these layers in training, by round: on what it is given in the network.

    A layer is called by itself, as often as it takes to be seen by the clock; gradients are recorded, none is computed.
    One that cannot be called so has no seconds.
    """
    modules = dict(network.named_modules())
    wanted = {name: modules[name] for name in layers}
    calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def keep(name: str) -> Callable[..., None]:
        def called(module: nn.Module, args: Any, kwargs: Any) -> None:
            calls.setdefault(name, (args, kwargs))

        return called

    hooks = [module.register_forward_pre_hook(keep(name), with_kwargs=True) for name, module in wanted.items()]
    try:
        network(x)
    finally:
        for hook in hooks:
            hook.remove()
    counts: dict[str, int] = {}
    for name, (args, kwargs) in calls.items():
        try:
            seconds = _seconds(wanted[name], args, kwargs, 1)
        except Exception:  # noqa: BLE001 - a user's module, which may need what the network does around its call
            continue
        counts[name] = max(1, min(MOST_CALLS, round(LEAST_SECONDS / max(seconds, 1e-9))))
    took: dict[str, list[float]] = {name: [] for name in counts}
    for _ in range(rounds):
        for name, times in counts.items():
            took[name].append(_seconds(wanted[name], *calls[name], times))
    return took


def _seconds(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], times: int) -> float:
    """Of a call, after one that wakes what has slept."""
    module(*args, **kwargs)
    began = time.perf_counter()
    for _ in range(times):
        module(*args, **kwargs)
    return (time.perf_counter() - began) / times
