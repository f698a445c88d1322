"""What is tried of subnets before the clock: which engine is the faster one, and what training them would lose.

It trains copies only. That an engine may also be asked for, and that ranks are to agree, is not known here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..preparing.building import copied
from ..preparing.examination import undisturbed
from ..preparing.modes import put
from ..preparing.prepare import Prepared
from ..preparing.seeds import seed_all
from ..training.loop import Step
from ..training.spec import Subnets
from .engines.device import CPU
from .engines.trying import TOLERANCE, Trial
from .states import fill, state_of
from .trainer import Trainer, loss_on

TRIALS, TRIAL_WARM_UP = 5, 2
"""Steps by which two engines are compared, and before."""
HANDED_OVER = (
    "the model's outputs depend on something that changes as it trains and is no parameter and no buffer: keep it by "
    "register_buffer, so that it is handed over"
)
TRIAL_MEMBERS = 8
"""So many subnets are enough to know what one after the other costs."""


def make_trial(
    prepared: Prepared, every: Sequence[Tensor], *, is_own: bool = False, device: torch.device = CPU
) -> Trial:
    """Of stacks, with a whole batch and the last of an epoch (`every` batch of it), which may be smaller."""
    rows = [every[0], every[-1]] if every[-1].shape != every[0].shape else [every[0]]
    batches = [(prepared.x[each].to(device), prepared.y[each].to(device)) for each in rows]
    return Trial(loss_on(prepared.for_trial().loss_function, device), batches, is_own=is_own)


def see_handed_over(prepared: Prepared, subnet: nn.Module, every: Sequence[Tensor]) -> None:
    """See that a network which is given the parameters and buffers of one that has trained computes what that does.

    Raises
    ------
    InputError
        When outputs depend on something else that training changes: it would be lost.
    """
    trained, other = (copied("a sub-network", subnet) for _ in range(2))
    with undisturbed(), torch.no_grad():
        for rows in (every[0], every[-1]):
            put(trained, training=True)(prepared.x[rows[0] if rows.dim() == 2 else rows].clone())
        fill(other, state_of(trained))
        if not _compute_the_same(prepared, trained, other):
            raise InputError(HANDED_OVER)


def is_handed_over(prepared: Prepared, trainer: Trainer, networks: Mapping[int, nn.Module]) -> bool:
    """Whether networks, by their places in the trainer, compute what was trained there."""
    modules = trainer.modules().items()
    return all(_compute_the_same(prepared, each, networks[place]) for place, each in modules if place in networks)


def _compute_the_same(prepared: Prepared, one: nn.Module, other: nn.Module) -> bool:
    """Whether two networks give the same for the held-out rows."""

    def outputs(network: nn.Module) -> Tensor:
        seed_all(0)
        return prepared.outputs(network)

    with undisturbed():
        return torch.allclose(outputs(one), outputs(other), rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)


def rehearsal(trainer: Trainer, spec: Subnets) -> Step[Tensor | Sequence[Tensor]]:
    """Steps of a trainer that is thrown away; they show, before the clock, whether what it remembers can be dealt."""

    def step(rows: Tensor | Sequence[Tensor]) -> Tensor:
        losses = trainer.step(rows)
        if spec.deals_every:
            trainer.memory()
        return losses

    return step


def choose_engine(
    prepared: Prepared, subnets: Sequence[nn.Module], rows: Tensor, trial: Trial, device: torch.device = CPU
) -> tuple[str, str]:
    """The faster engine for these subnets on this machine, by a short trial, and what says so; nothing where it is one.

    The trial trains copies; it draws no random number that anybody else would.
    """
    if len(subnets) == 1:
        return "separate", ""
    some = list(subnets[:TRIAL_MEMBERS])
    with torch.random.fork_rng():
        together = Trainer(prepared.for_trial(), subnets, "stacked", trial, is_own=rows.dim() == 2, device=device)
        if all(engine == "separate" for engine in together.engines):
            return "separate", "these sub-networks, or their optimizer, cannot be stacked"
        alone = Trainer(prepared.for_trial(), some, "separate", trial, device=device)
        stacked = _step_seconds(together, rows)
        if all(engine == "separate" for engine in together.engines):
            return "separate", "a stack of these sub-networks cannot make a step that they can make alone"
        separate = _step_seconds(alone, rows[: len(some)] if rows.dim() == 2 else rows) * len(subnets) / len(some)
    name = "+".join(sorted(set(together.engines)))
    said = f"a step takes {stacked * 1e3:.2g} ms stacked ({name}), {separate * 1e3:.2g} ms one after the other"
    return ("stacked" if stacked <= separate else "separate"), said


def _step_seconds(trainer: Trainer, rows: Tensor) -> float:
    seconds = []
    for _ in range(TRIAL_WARM_UP + TRIALS):
        began = time.perf_counter()
        trainer.step(rows).sum().item()  # a GPU's work is done only when its value is there
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[TRIAL_WARM_UP:])
