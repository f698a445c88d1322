"""Does a part compute what the network computes with its other units dead? Tried before the clock, on some rows.

That two tensors have the same length says nothing about what runs along them: a shuffle of channels, a flip, a softmax
over units or heads that are written out cut well and mean something else afterwards. So parts are compared with the
network, in double precision and in evaluation mode. Dead are units whose values no weight takes: they go on computing,
and a part that is right does not notice.

Weights are moved for it, so that nothing is hidden by one that is zero or by units that are alike. Norms over all units
differ in a part by nature (`Units.mixes_units`); both sides are compared without their statistics, but with what else
they do. What is done with a cut that is not exact is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..preparing.building import copied
from ..preparing.eager import eagerly
from ..preparing.examination import undisturbed
from ..preparing.modes import put
from ..preparing.seeds import seed_all
from .units import NORMS_OVER_UNITS, Axis, Part, Units

TOLERANCE, TOLERANCE_SINGLE = 1e-6, 1e-3
"""Of outputs, beside the largest; the second where a network does not run in double precision."""
MOVED = 0.5
"""By how much of its root mean square a weight is moved."""
FIRST_SCALE = 0.3
"""Of a bias that is zero."""


def find_mixed(units: Units, parts: Sequence[Part], sample: Tensor) -> str:
    """What of a cut is not exact: the layer whose units mean something else in a part; "" where all is exact.

    The first part, which is as wide as any, its neighbour and the last, which is as narrow as any, stand for all: what
    is wrong with the others is wrong with these.

    Parameters
    ----------
    sample
        A batch (batch, ...) that the network takes.
    """
    if len(parts) < 2:
        return ""
    chosen = [parts[i] for i in sorted({0, 1, len(parts) - 1})]
    with undisturbed(), eagerly(), torch.enable_grad():  # with gradients no layer takes a shortcut of its own
        return _find(units, chosen, sample)


def _find(units: Units, parts: Sequence[Part], sample: Tensor) -> str:
    bench = _Bench.of(units, sample)
    if all(map(bench.is_exact, parts)):
        return ""
    everything = [torch.arange(layer.size) for layer in units.layers]
    for number, layer in enumerate(units.layers):
        alone = [[of[k] if k == number else every for k, every in enumerate(everything)] for of in parts]
        if not all(map(bench.is_exact, alone)):
            return f"layer {layer.name}"
    return "its layers together"


class _Bench:
    """A network with moved weights, beside which parts of it are put."""

    def __init__(self, units: Units, whole: nn.Module, sample: Tensor, tolerance: float) -> None:
        self._units, self._whole, self._sample = replace(units, model=whole), whole, sample
        self._tolerance, self._takers, self._norms = tolerance, _takers(units), _norms(units)
        put(whole, training=False)

    @classmethod
    def of(cls, units: Units, sample: Tensor) -> _Bench:
        """In double precision, with moved weights, where it runs so and its outputs are finite."""
        wide = sample.double() if sample.is_floating_point() else sample
        for scale, is_double in ((MOVED, True), (0.0, True), (MOVED, False)):
            whole = copied("the model", units.model)
            bench = cls(
                units,
                _moved(whole.double() if is_double else whole, scale),
                wide if is_double else sample,
                TOLERANCE if is_double else TOLERANCE_SINGLE,
            )
            try:
                if bool(bench._outputs(whole).isfinite().all()):
                    return bench
            except Exception:  # noqa: BLE001 - it does not run so; that it runs at all was seen before
                continue
        return bench

    def is_exact(self, part: Part) -> bool:
        """Whether this part computes what the network does while no weight takes its other units."""
        with _dead(self._whole, self._takers, part):
            whole = self._outputs(self._whole)
        try:
            alone = self._outputs(put(self._units.narrow(part), training=False))
        except Exception:  # noqa: BLE001 - a network that is cut in one layer only may not run
            return False
        scale = max(1.0, float(whole.abs().nan_to_num().max()))
        return whole.shape == alone.shape and torch.allclose(
            whole / scale, alone / scale, rtol=0, atol=self._tolerance, equal_nan=True
        )

    def _outputs(self, network: nn.Module) -> Tensor:
        seed_all(0)
        with _without_statistics(network, self._norms):
            return network(self._sample.clone()).detach()


def _takers(units: Units) -> dict[str, Axis]:
    """By the names of all weights that take hidden units, to which units their inputs belong."""
    found = {}
    for name, axes in units.axes.items():
        owner = units.model.get_submodule(name.rpartition(".")[0])
        is_taker = isinstance(owner, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention))
        if is_taker and 1 in axes:  # a convolution of each channel alone takes nobody else's: it has no such axis
            found[name] = axes[1]
    return found


def _norms(units: Units) -> list[str]:
    """Names of the norms that normalise over hidden units."""
    norms = [name for name, module in units.model.named_modules() if isinstance(module, NORMS_OVER_UNITS)]
    return [name for name in norms if name in units.widths or f"{name}.weight" in units.axes]


@torch.no_grad()
def _moved(model: nn.Module, scale: float) -> nn.Module:
    """The same network with other weights, drawn about its own; statistics too, which may still be those of no data."""
    generator = torch.Generator().manual_seed(0)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like)

    for p in model.parameters():
        if scale and p.is_floating_point() and p.numel():
            size = float(p.double().square().mean().sqrt()) * scale
            p.add_(noise(p) * (size or ((p.numel() / len(p)) ** -0.5 if p.dim() > 1 else FIRST_SCALE)))
    for module in model.modules():
        if scale and isinstance(getattr(module, "running_mean", None), Tensor):
            module.running_mean += FIRST_SCALE * noise(module.running_mean)  # type: ignore[operator,arg-type]
            module.running_var *= 1 + FIRST_SCALE * noise(module.running_var).abs()  # type: ignore[operator,arg-type]
    return model


@contextmanager
def _dead(whole: nn.Module, takers: dict[str, Axis], part: Part) -> Iterator[None]:
    """While it lasts, no weight takes units that a part does not have."""
    weights = dict(whole.named_parameters())
    kept = []
    with torch.no_grad():
        for name, axis in takers.items():
            is_dead = torch.ones(len(axis.layer), dtype=torch.bool)
            is_dead[axis.kept(part)] = False
            kept.append((weights[name], is_dead, weights[name][:, is_dead].clone()))
            weights[name][:, is_dead] = 0
    yield
    with torch.no_grad():
        for weight, is_dead, values in kept:
            weight[:, is_dead] = values


@contextmanager
def _without_statistics(network: nn.Module, norms: Sequence[str]) -> Iterator[None]:
    """While it lasts, these norms only scale and shift."""

    def scale_only(module: nn.Module, given: tuple[Tensor, ...], outputs: Tensor) -> Tensor:
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        scaled = given[0] if weight is None else given[0] * weight
        return scaled if bias is None else scaled + bias

    hooks = [network.get_submodule(name).register_forward_hook(scale_only) for name in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
