"""What merging can be expected to bring, before the clock: are parts wide enough to fit together, and quick enough?

Both rules are measured ones (tests/benchmarks/merging.py). How parts train, and what is said, is not known here.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from ..comm.context import Context
from ..comm.objects import allgather, barrier
from ..hardware import allowed_cpus
from ..levers.hardware import with_threads
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

FEWEST = 32
"""Numbers that a sum in a part has at the least: with 16 the merged network stays points below the network as it is,
also where it is polished; with 32 it is within a point."""
QUANTITIES = 3
"""Weights, and two that Adam remembers of each."""
GAIN = 0.8
"""Of the seconds of the network as it is."""
MORE = 1.1
"""What a few steps of both foretell was 0.04 to 0.13 too little: a training makes other ones too."""
TRIALS, TURNS, MOST_SECONDS = 7, 25, 0.2
"""Steps at the least, and at the most in that time."""


@dataclass(frozen=True)
class Outlook:
    """What is foreseen, on rank 0.

    Attributes
    ----------
    why
        What speaks against merging; "" where nothing does.
    threads
        With how many rank 0 makes a step of the whole network soonest, while the others keep still.
    """

    why: str
    threads: int


def foresee(
    context: Context, prepared: Prepared, spec: Subnets, division: Division, parts: Trainer, rows: Tensor
) -> Outlook | None:
    """By some steps of the parts and of the network; None on the other ranks. Collective.

    Parameters
    ----------
    parts
        This rank's; they are used up.
    rows
        Of a batch (batch,), or one of each part (parts, batch).
    """
    with undisturbed():  # all ranks at the same time: as they train, they have the machine in common
        seconds = max(allgather(context.comm, _seconds(parts.step, rows)))
    threads = min(context.threads * context.size, allowed_cpus())  # which the network has where it trains as it is
    found = _weigh(prepared, spec, division, _first(rows), seconds, threads) if context.is_root else None
    barrier(context.comm)  # the others have kept still
    return found


def _weigh(prepared: Prepared, spec: Subnets, division: Division, rows: Tensor, parts: float, threads: int) -> Outlook:
    times = {count: _whole_seconds(prepared, division, rows, count) for count in (torch.get_num_threads(), threads)}
    best = min(times, key=lambda count: times[count])
    return Outlook(_why(prepared, spec, division, parts, times[best]), best)


def _why(prepared: Prepared, spec: Subnets, division: Division, parts: float, whole: float) -> str:
    assert division.units is not None
    name, count = division.units.fewest(division.parts[-1])
    if count < FEWEST:
        return (
            f"in parts of one in {spec.subnets}, {name} sums over {count} numbers, and fewer than {FEWEST} do not "
            "learn to fit together: give fewer sub-networks, or a wider network"
        )
    with undisturbed():
        dealing = _deal_seconds(division)
    steps, steps_apart = (-(-each // spec.batch) for each in (len(prepared.x), rows_each(len(prepared.x), spec)))
    deals = -(-spec.apart_epochs // (spec.deals_every or spec.apart_epochs))
    needed = spec.apart_epochs * steps_apart * parts + spec.joint_epochs * steps * whole + (deals - 1) * dealing
    foretold = MORE * needed / (spec.epochs * steps * whole)
    if foretold > GAIN:
        return (
            f"it would take about {foretold:.2f} of the seconds of the network as it is (a step of the parts of one "
            f"rank {parts * 1e3:.2g} ms, dealing them anew {dealing * 1e3:.2g} ms, a step of the network "
            f"{whole * 1e3:.2g} ms): give more workers, or a wider network"
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


def _whole_seconds(prepared: Prepared, division: Division, rows: Tensor, threads: int) -> float:
    """Of a step of the network as it is."""
    with undisturbed(), with_threads(threads):
        network = put(copied("the model", division.model), training=True)
        named = trained(network)
        optimizer = prepared.optimizer([p for _, p in named], [n for n, _ in named])
        return _seconds(plain_step(network, optimizer, prepared.loss_function, prepared.x, prepared.y), rows)


def _seconds(step: Step[Tensor], rows: Tensor) -> float:
    """Of one of several, as it takes when all that it needs is at hand: the lower quartile."""
    seconds = list[float]()
    while len(seconds) < TRIALS or (len(seconds) < TURNS and sum(seconds) < MOST_SECONDS):
        began = time.perf_counter()
        step(rows).sum().item()  # a GPU's work is done only when its value is there
        seconds.append(time.perf_counter() - began)
    return statistics.quantiles(seconds)[0]
