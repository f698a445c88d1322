"""Whether a stack of subnets does what its modules do: tried before the clock, with the batches that there will be.

A whole batch, and the last of an epoch, which may be smaller, go forward and backward on copies, and each makes a step
by an `Updater`, which gives parameters other memory: what is kept of them from before never trains. Compared are
outputs, gradients, buffers and what was moved; of a network that draws at random in training mode, in evaluation mode.
What was found holds for all subnets of the same architecture, and is kept. Who asks, and what is made of it, is not
known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ...preparing.building import copied, trained
from .losses import Loss, losses_and_gradient, plain_loss
from .stacks import Stack, VmapStack
from .updating import Rules, Updater

Batch = tuple[Tensor, Tensor]
"""x (batch, ...) and y (batch, ...) for all; or of each subnet its own, (subnets, batch, ...)."""
Gradients = Mapping[str, Tensor | None]
"""Of one network, by the names of its parameters."""
TOLERANCE = 1e-4
"""By so much may a stack's outputs and buffers differ from those of its modules after one batch."""
MOVE, STEPS = 0.01, 2
"""How far the largest number moves in a step that is tried, so that who reads old numbers gives others; in a second
step that is seen."""


class Trial:
    """Batches to be tried, and what was found with them.

    Parameters
    ----------
    batches
        On the device where subnets train; `is_own`: one of each subnet.
    """

    def __init__(self, loss: Loss, batches: Iterable[Batch], *, is_own: bool = False) -> None:
        self._loss, self._batches, self._is_own = plain_loss(loss), list(batches), is_own
        self._kinds: dict[object, type[Stack] | None] = {}
        self._reached: dict[object, bool] = {}

    def choose(self, key: object, kinds: Sequence[type[Stack]], subnets: Sequence[nn.Module]) -> type[Stack] | None:
        """The first of the kinds that does what the modules do, of an architecture known as `key`; None: none does."""
        if key not in self._kinds:
            self._kinds[key] = next((kind for kind in kinds if self._does_the_same(key, kind, subnets)), None)
        return self._kinds[key]

    def refuse(self, key: object) -> None:
        """What is known as `key` is not to be stacked after all."""
        self._kinds[key] = None

    def reaches_all(self, key: object, subnet: nn.Module) -> bool:
        """Whether each of its parameters gets a gradient by every batch; not where it cannot be asked."""
        if key not in self._reached:
            self._reached[key] = self._reaches_all(subnet)
        return self._reached[key]

    def _reaches_all(self, subnet: nn.Module) -> bool:
        copy = copied("a sub-network", subnet)
        with torch.random.fork_rng(), torch.enable_grad():
            for x, y in self._batches:
                given, wanted = (x[0], y[0]) if self._is_own else (x, y)
                try:
                    self._loss(copy(given.clone()), wanted).backward()
                except Exception:  # noqa: BLE001 - who trains it will say what is wrong
                    return False
                if any(p.grad is None for _, p in trained(copy)):
                    return False
                copy.zero_grad()
        return True

    def _does_the_same(self, key: object, kind: type[Stack], subnets: Sequence[nn.Module]) -> bool:
        alone = [copied("a sub-network", subnets[i]) for i in (0, -1)]
        is_flat, times = self.reaches_all(key, subnets[0]), max(STEPS, len(self._batches))
        with torch.random.fork_rng(), torch.enable_grad():
            try:
                pair = _Beside(kind, alone, self._loss, is_own=self._is_own, is_flat=is_flat)
                if not all(pair.agree(self._batches[i % len(self._batches)]) for i in range(times)):
                    return False
                # What runs under vmap is their own forward; in evaluation mode it may call kernels that it has no rule
                # for. Without dropout, which would hide what is wrong.
                if issubclass(kind, VmapStack):
                    return True
                modules, x = [module.eval() for module in alone], self._batches[0][0]
                if not pair.draws:  # it has made its steps
                    return _agrees(kind, modules, x[0] if self._is_own else x)
                pair = _Beside(kind, modules, self._loss, is_own=self._is_own, is_flat=is_flat)
                return all(pair.agree(self._batches[0]) for _ in range(STEPS))
            except Exception:  # noqa: BLE001 - what a stack cannot follow may raise anything
                return False


class _Beside:
    """Some modules, one after the other, and a stack of copies of them; both go on from where they are.

    Attributes
    ----------
    draws
        Whether the last pass drew at random. Then it was compared by its buffers alone, and moved nothing.
    """

    def __init__(
        self, kind: type[Stack], alone: Sequence[nn.Module], loss: Loss, *, is_own: bool, is_flat: bool
    ) -> None:
        self._alone, self._loss, self._is_own, self.draws = alone, loss, is_own, False
        self._together = kind([copied("a sub-network", module) for module in alone], list(range(len(alone))))
        rules = Rules(lambda parameters, names: torch.optim.SGD(parameters, lr=1.0))
        self._updater = Updater(self._together, rules, is_flat=is_flat)

    def agree(self, batch: Batch) -> bool:
        """Whether one step gives the same."""
        alone, together = self._alone, self._together
        x, y = (tensor[:2] for tensor in batch) if self._is_own else batch
        before = torch.random.get_rng_state()
        outputs, gradients = [], []
        for i, module in enumerate(alone):
            given, wanted = (x[i], y[i]) if self._is_own else (x, y)
            output = module(given.clone())
            module.zero_grad()
            self._loss(output, wanted).backward()
            outputs.append(output.detach())
            gradients.append({name: None if p.grad is None else p.grad.clone() for name, p in trained(module)})
        self.draws = not torch.equal(before, torch.random.get_rng_state())
        with _NoReading() if not isinstance(together, VmapStack) else torch.enable_grad():
            found = together(x.clone(), is_own=self._is_own)
        _, gradient = losses_and_gradient(self._loss, found, y, is_own=self._is_own)
        self._updater.zero_grad()
        if gradient is not None:
            together.backward(found, gradient)
        for module, state in zip(alone, together.states(), strict=True):
            if not all(_is_close(buffer, state[name]) for name, buffer in module.named_buffers()):
                return False
        if self.draws:
            return True
        parameters = together.parameters()
        return (
            all(_is_close(one, other) for one, other in zip(outputs, found.detach(), strict=True))
            and all(
                _are_close(of, {name: None if p.grad is None else p.grad[i] for name, p in parameters.items()})
                for i, of in enumerate(gradients)
            )
            and (gradient is None or self._move_alike(gradients))
        )

    @torch.no_grad()
    def _move_alike(self, gradients: Sequence[Gradients]) -> bool:
        """Whether a step of the optimizer moves what it moves alone."""
        rate = MOVE / max(map(_largest, gradients), default=0.0) if any(map(_largest, gradients)) else 0.0
        for group in self._updater.optimizer.param_groups:
            group["lr"] = rate
        self._updater.step()
        states = self._together.states()
        for module, of, state in zip(self._alone, gradients, states, strict=True):
            for name, p in trained(module):
                g = of[name]
                if g is not None:
                    p.sub_(g.to_dense(), alpha=rate)
                eps = torch.finfo(p.dtype).eps
                if not torch.allclose(p, state[name], rtol=4 * eps, atol=eps**0.5 * MOVE, equal_nan=True):
                    return False
        return True


class _NoReading(TorchDispatchMode):
    """Refuses that a number is read out of a tensor: side by side, it is not one network's but all networks'."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default):
            raise RuntimeError("goes by the values of all networks together")
        return func(*args, **(kwargs or {}))


def _agrees(kind: type[Stack], modules: Sequence[nn.Module], x: Tensor) -> bool:
    """Whether outputs are those of each alone."""
    with torch.no_grad():
        outputs = kind(modules, [0, 1])(x.clone())
        return all(_is_close(module(x.clone()), output) for module, output in zip(modules, outputs, strict=True))


def _is_close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


def _largest(gradients: Gradients) -> float:
    return max((float(g.abs().max()) for g in gradients.values() if g is not None and g.numel()), default=0.0)


def _are_close(one: Gradients, other: Gradients) -> bool:
    """Of one network: beside the largest, as one may be nothing but rounding (a bias before BatchNorm)."""
    largest = _largest(one)
    for name, g in one.items():
        its = other[name]
        if g is None or its is None:
            if g is not its:
                return False
            continue
        near = torch.finfo(g.dtype).eps ** 0.5 * largest
        if not torch.allclose(g, its.reshape(g.shape), rtol=0, atol=near, equal_nan=True):
            return False
    return True
