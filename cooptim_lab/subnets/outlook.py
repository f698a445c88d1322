"""What merging can be expected to bring, before the clock: are parts wide enough to fit together, and quick enough?

Both rules are measured ones (tests/benchmarks/merging.py). How parts train, and what is said, is not known here.
"""

from __future__ import annotations

import statistics
import time

from torch import Tensor

from ..preparing.building import copied, trained
from ..preparing.examination import undisturbed
from ..preparing.modes import put
from ..preparing.prepare import Prepared
from ..training.loop import Step, plain_step
from ..training.spec import Subnets
from .sampling import rows_each
from .split import Division
from .states import state_of
from .trainer import Trainer
from .trial import TRIAL_WARM_UP, TRIALS

FEWEST = 32
"""Numbers that a sum in a part has at the least: with 16 the merged network stays points below the network as it is,
also where it is polished; with 32 it is within a point."""
QUANTITIES = 3
"""Weights, and two that Adam remembers of each."""
GAIN = 0.8
"""Of the seconds of the network as it is: a few steps foretell them within a fifth."""


def why_no_gain(prepared: Prepared, spec: Subnets, division: Division, trainer: Trainer, rows: Tensor) -> str:
    """What speaks against it; "" where nothing does.

    Parameters
    ----------
    trainer
        Of this rank's parts; it is used up.
    rows
        Of a batch (batch,), or one of each part (parts, batch).
    """
    assert division.units is not None
    name, count = division.units.fewest(division.parts[-1])
    if count < FEWEST:
        return (
            f"in parts of one in {spec.subnets}, {name} sums over {count} numbers, and fewer than {FEWEST} do not "
            "learn to fit together: give fewer sub-networks, or a wider network"
        )
    with undisturbed():
        network = put(copied("the model", division.model), training=True)
        named = trained(network)
        optimizer = prepared.optimizer([p for _, p in named], [n for n, _ in named])
        whole = _seconds(plain_step(network, optimizer, prepared.loss_function, prepared.x, prepared.y), _first(rows))
        parts = _seconds(trainer.step, rows)
        dealing = _deal_seconds(division)
    steps, steps_apart = (-(-each // spec.batch) for each in (len(prepared.x), rows_each(len(prepared.x), spec)))
    deals = -(-spec.apart_epochs // (spec.deals_every or spec.apart_epochs))
    needed = spec.apart_epochs * steps_apart * parts + spec.joint_epochs * steps * whole + (deals - 1) * dealing
    if needed > GAIN * spec.epochs * steps * whole:
        return (
            f"a step of the parts of one rank takes {parts * 1e3:.2g} ms, dealing them anew {dealing * 1e3:.2g} ms, a "
            f"step of the network {whole * 1e3:.2g} ms: give more workers, or a wider network"
        )
    return ""


def _first(rows: Tensor) -> Tensor:
    return rows[0] if rows.dim() == 2 else rows


def _deal_seconds(division: Division) -> float:
    """About what dealing anew takes: weights, and what an optimizer remembers of each, are put together and cut."""
    units, states = division.units, [state_of(part) for part in division.make()]
    parts = division.deal_again(1).parts
    assert units is not None
    began = time.perf_counter()
    for _ in range(QUANTITIES):
        whole = units.join(state_of(division.model), states, parts)
        for part in parts:
            units.cut(whole, part)
    return time.perf_counter() - began


def _seconds(step: Step[Tensor], rows: Tensor) -> float:
    """Of one of several, the median."""
    seconds = []
    for _ in range(TRIAL_WARM_UP + TRIALS):
        began = time.perf_counter()
        step(rows).sum().item()  # a GPU's work is done only when its value is there
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[TRIAL_WARM_UP:])
