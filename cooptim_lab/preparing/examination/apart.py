"""Does a batch give what its parts give? Where rows of a batch meet in a network, ranks that see parts train another.

A batch goes through one copy, its two parts each through a copy of its own, as through ranks; twice, and cut elsewhere
the second time, so that what a copy keeps from one batch for the next is seen too. In float64 where a network can be
made so. BatchNorm is left out: over ranks it is right (`shards.batchnorm`). Of a network that draws numbers beside
dropout, parts are given those that their rows had in the whole; where they cannot be, it is not told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..building import packed, unpacked
from ..modes import put
from ..scoring import Loss
from ..seeds import is_generator, seed_all
from .noise import CannotTellError, Noise
from .still import Still, without_dropout

ROWS = 16
"""Of the batch."""
OUTPUTS, GRADIENT = "the outputs", "the gradient"
LEAST, MOST, DIGITS = 1e-6, 0.1, 1e4
"""What rounding explains of a difference, beside the largest number: in float64; at the most; in steps of a float."""
FLOOR = 1e-2
"""A gradient beside which a smaller one is compared: one that is 0 but for rounding is no gradient."""


@dataclass(frozen=True)
class Apart:
    """What is another for the parts of a batch than for the whole.

    Attributes
    ----------
    training
        In training mode: OUTPUTS, GRADIENT, names of parameters and buffers that a pass changes.
    is_scored_together
        Whether outputs in evaluation mode depend on the other rows.
    is_untold
        Whether it could not be seen in training mode, for the network draws numbers that cannot be drawn again.
    """

    training: tuple[str, ...] = ()
    is_scored_together: bool = False
    is_untold: bool = False


def see_apart(network: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> Apart:
    """Look at copies of a network, of rows (x, y), some of which are taken. Generators are drawn from.

    A network that cannot take the parts is not judged: it will say so itself.
    """
    x, y = x[:ROWS], y[:ROWS]
    if len(x) < 2:
        return Apart()
    if any(_draws_by_itself(module) for module in network.modules()):
        return Apart(is_untold=True)
    for wide in (True, False):
        try:
            return _see(_Network(network, wide), loss, x.double() if wide and x.is_floating_point() else x, y)
        except CannotTellError:
            return Apart(is_untold=True)
        except Exception:  # noqa: BLE001 - in float64 it may fail for its types, and then is asked as it is
            continue
    return Apart()


class _Network:
    """Copies of a network."""

    def __init__(self, network: nn.Module, wide: bool) -> None:
        self._bytes, self._wide = packed("the model", network), wide

    def copy(self) -> nn.Module:
        made = without_dropout(put(unpacked(self._bytes), training=True))
        for p in made.parameters():
            p._backward_hooks = None  # whether they can be called on parts is not asked here
        return made.double() if self._wide else made


@dataclass
class _Passed:
    """What two passes gave, and left: outputs of each, gradients of the first, and parameters and buffers."""

    outputs: list[Tensor]
    gradients: dict[str, Tensor]
    state: dict[str, Tensor]


def _see(networks: _Network, loss: Loss, x: Tensor, y: Tensor, *, is_noisy: bool = False) -> Apart:
    norms: list[tuple[Tensor, Tensor]] = []
    cuts = [max(1, len(x) * 3 // 8), len(x) - max(1, len(x) * 3 // 8)]
    seed_all(0)
    still, noise = Still(norms), Noise(len(x))
    start = networks.copy()
    before = _state(start)
    with still, noise if is_noisy else nullcontext():
        first = start(x.clone())
        weights = _weights(loss, first, y)
        whole = _passed(start, first, weights, x)
    seed_all(1)
    with Still([*norms]), Noise(len(x), noise.drawn) if is_noisy else nullcontext(), torch.no_grad():
        again = networks.copy()
        others = again(x.clone())
    tolerance = min(MOST, max(LEAST, DIGITS * still.coarsest))
    together = _is_scored_together(again, x, tolerance)
    if not bool(whole.outputs[0].isfinite().all()):
        return Apart((), together)  # there is nothing that could be compared
    if _differ(others, whole.outputs[0], tolerance):
        return Apart((), together, is_untold=True) if is_noisy else _see(networks, loss, x, y, is_noisy=True)
    parts = []
    for which in (0, 1):
        one, two = ((slice(cut), slice(cut, None))[which] for cut in cuts)
        seed_all(0)
        known = Noise(len(x), noise.drawn)
        with Still([*norms]), known if is_noisy else nullcontext():
            copy = networks.copy()
            known.part = one
            outputs = copy(x[one].clone())
            parts.append(_passed(copy, outputs, weights[one], x[two], partial(setattr, known, "part", two)))
    return Apart(tuple(_differences(before, whole, parts, tolerance)), together)


def _passed(
    network: nn.Module, outputs: Tensor, weights: Tensor, x: Tensor, between: Callable[[], None] = lambda: None
) -> _Passed:
    """Backward, and a second pass; `between` them."""
    if outputs.requires_grad:
        outputs.backward(weights)
    gradients = {name: p.grad.to_dense() for name, p in network.named_parameters() if p.grad is not None}
    between()
    with torch.no_grad():
        second = network(x.clone())
    return _Passed([outputs.detach(), second.detach()], gradients, _state(network))


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in (*network.named_parameters(), *network.named_buffers())}


def _weights(loss: Loss, outputs: Tensor, y: Tensor) -> Tensor:
    """What the loss has for gradient by the outputs: each row's is its own, whatever the loss divides by."""
    for dtype in dict.fromkeys((outputs.dtype, torch.float32)):
        given = outputs.detach().to(dtype).requires_grad_()
        try:
            (found,) = torch.autograd.grad(loss(given, y), given)
        except Exception:  # noqa: BLE001 - of another dtype than it is used to
            continue
        if bool(found.isfinite().all()) and bool(found.any()):
            return found.to(outputs.dtype)
    numbers = torch.arange(1, outputs.numel() + 1, dtype=outputs.dtype)
    return numbers.cos().view_as(outputs) / len(outputs)


def _is_scored_together(network: nn.Module, x: Tensor, tolerance: float) -> bool:
    put(network, training=False)
    with Still(), torch.no_grad():
        whole, again = network(x.clone()), network(x.clone())
        cut = max(1, len(x) * 3 // 8)
        parts = torch.cat([network(x[:cut].clone()), network(x[cut:].clone())])
    return not _differ(again, whole, tolerance) and _differ(parts, whole, tolerance)


def _differences(before: Mapping[str, Tensor], whole: _Passed, parts: Sequence[_Passed], tolerance: float) -> list[str]:
    found = []
    both = [torch.cat(of) for of in zip(*(part.outputs for part in parts), strict=True)]
    if any(_differ(one, other, tolerance) for one, other in zip(both, whole.outputs, strict=True)):
        found.append(OUTPUTS)
    elif _gradients_differ(whole, parts, tolerance):
        found.append(GRADIENT)
    for name, after in whole.state.items():
        changes = [_change(state[name], before[name]) for state in (whole.state, *(part.state for part in parts))]
        noise = 8 * torch.finfo(after.dtype).eps * _largest(before[name]) if after.is_floating_point() else 0.0
        if any(_differ(change, changes[0], tolerance, noise / tolerance) for change in changes[1:]):
            found.append(name)
    return found


def _gradients_differ(whole: _Passed, parts: Sequence[_Passed], tolerance: float) -> bool:
    floor = FLOOR * max((_largest(gradient) for gradient in whole.gradients.values()), default=0.0)
    for name in {*whole.gradients, *(name for part in parts for name in part.gradients)}:
        known = [each.gradients[name] for each in (whole, *parts) if name in each.gradients]
        none = torch.zeros_like(known[0])
        one, other = whole.gradients.get(name, none), sum(part.gradients.get(name, none) for part in parts)
        if _differ(torch.as_tensor(other), one, tolerance, floor):
            return True
    return False


def _change(after: Tensor, before: Tensor) -> Tensor:
    if after.shape != before.shape or not (after.is_floating_point() or after.is_complex()):
        return after
    return after - before


def _largest(values: Tensor) -> float:
    return float(values.detach().abs().nan_to_num(0.0).max()) if values.numel() else 0.0


def _differ(one: Tensor, other: Tensor, tolerance: float, floor: float = 0.0) -> bool:
    """Whether two are not the same but for rounding, beside the largest of their numbers, or `floor`."""
    if one.shape != other.shape:
        return True
    if not (one.is_floating_point() or one.is_complex()):
        return not torch.equal(one, other)
    other = other.to(one.dtype)
    unequal = ~((one == other) | (one.isnan() & other.isnan()))
    scale = max(_largest(one), _largest(other), floor)
    return not bool(((one - other).abs()[unequal] <= tolerance * scale).all())


def _draws_by_itself(module: nn.Module) -> bool:
    """Whether it has a generator of its own, which a seed does not reach."""
    return any(map(is_generator, vars(module).values()))
