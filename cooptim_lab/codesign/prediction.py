"""What a step of training will take on this machine, by arithmetic: its counted work at the rates that were measured.

Each call of an operator takes its dispatch and beside that the time of its products, at the rate of their shape, or of
the bytes that it moves, at the rate of such operators; the optimizer what it was measured to take for so many tensors
and parameters. Nothing is run here, and torch is not known: a `costs.work.Step` and `hardware.ceilings.Ceilings` go in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ..costs.work import Layer, Step, Work
from ..errors import InputError
from ..hardware.ceilings import BF16, FLOAT32, PRECISIONS, Ceilings
from .prices import Prices
from .rescaling import rescaled

PRODUCTS, BYTES, DISPATCH, OPTIMIZER = "products", "bytes", "dispatch", "optimizer"
PARTS = (PRODUCTS, BYTES, DISPATCH, OPTIMIZER)
ALIKE = {"AdamW": "Adam"}
"""Optimizers that take what another takes."""
LOSS = "(loss)"


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """Seconds of a layer's part of a step, forward and backward, by what they go to."""

    name: str
    kind: str
    products: float
    bytes: float
    dispatch: float

    @property
    def seconds(self) -> float:
        """All of them."""
        return self.products + self.bytes + self.dispatch

    @property
    def bound(self) -> str:
        """What it waits for most: "products", "bytes" or "dispatch"."""
        return max((PRODUCTS, BYTES, DISPATCH), key=lambda part: float(getattr(self, part)))


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a step will take.

    Attributes
    ----------
    rows
        Of the batch.
    layers
        In the order in which they are called; last the loss.
    optimizer
        Seconds of its zero_grad and step.
    beyond
        A line for each thing that was not measured, so that the nearest figure, or none, was taken.
    """

    rows: int
    threads: int
    layers: tuple[LayerTime, ...]
    optimizer: float
    beyond: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(layer.seconds for layer in self.layers) + self.optimizer

    @property
    def parts(self) -> dict[str, float]:
        """Seconds by what they go to: products, bytes, dispatch, the optimizer."""
        sums = {part: sum(float(getattr(layer, part)) for layer in self.layers) for part in PARTS[:-1]}
        return {**sums, OPTIMIZER: self.optimizer}

    @property
    def bound(self) -> str:
        """The largest of the parts."""
        parts = self.parts
        return max(parts, key=lambda part: parts[part])


def predict(
    step: Step,
    ceilings: Ceilings,
    *,
    threads: int,
    precision: str = FLOAT32,
    fused: bool = False,
    optimizer: str = "Adam",
    rows: int | None = None,
) -> Prediction:
    """Seconds of a step of training, as counted, on the machine that was measured.

    Parameters
    ----------
    step
        What `costs.counting.count_step` has counted.
    threads
        Of one process: 1, or as many as were measured beside that (`ceilings.cpus`).
    precision
        Of the products (`hardware.ceilings.PRECISIONS`); in bf16 all numbers have two bytes.
    fused
        Whether the optimizer is torch's fused one, not its loop.
    optimizer
        "Adam", "AdamW" or "SGD", which has momentum.
    rows
        Of a batch; the one that was counted when left out. Every product has the batch in one of its sides.

    Raises
    ------
    InputError
        When the ceilings have no figures for so many threads, this precision or this optimizer.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r} is not measured: choose from {', '.join(map(repr, PRECISIONS))}")
    if rows is not None and rows < 1:
        raise InputError(f"a batch of {rows} rows has no step: give at least 1")
    prices = Prices(ceilings, threads, precision, step.rows if rows is None else rows)
    name = f"{ALIKE.get(optimizer, optimizer)}, {'fused' if fused else 'loop'}"
    took = ceilings.optimizer_seconds(name, step.tensors, step.parameters, threads)
    if took is None:
        known = dict.fromkeys(row.name for row in ceilings.rows if row.kind == "step of a tensor" and row.value)
        raise InputError(f"the optimizer {name!r} was not measured: choose from {', '.join(map(repr, known))}")
    scale = 1.0 if rows is None else rows / step.rows
    narrow = 0.5 if precision == BF16 and step.precision == FLOAT32 else 1.0
    layers = [*step.layers, Layer(name=LOSS, kind="", parameters=0, forward=step.loss, backward=Work())]
    times = tuple(
        _layer(layer, [rescaled(work, step.rows, scale, narrow) for work in (layer.forward, layer.backward)], prices)
        for layer in layers
    )
    last = times[-1]
    if step.loss.operators:
        times = (*times[:-1], replace(last, dispatch=last.dispatch + prices.root(step.loss)))
    return Prediction(
        rows=step.rows if rows is None else rows,
        threads=threads,
        layers=times,
        optimizer=took,
        beyond=tuple(dict.fromkeys(prices.beyond)),
    )


def _layer(layer: Layer, works: Iterable[Work], prices: Prices) -> LayerTime:
    costs = [prices.work(work) for work in works]
    products, moved, dispatch = (sum(each) for each in zip(*costs, strict=True))
    return LayerTime(name=layer.name or "model", kind=layer.kind, products=products, bytes=moved, dispatch=dispatch)
