"""Which engine is the faster one for some subnets on this machine, by a short trial.

It trains copies only. That an engine may also be asked for, and that ranks are to agree, is not known here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..training.prepare import Prepared
from .engines.device import CPU
from .trainer import Trainer

TRIALS, TRIAL_WARM_UP = 5, 2
"""Steps by which two engines are compared, and before."""
TRIAL_MEMBERS = 8
"""So many subnets are enough to know what one after the other costs."""


def choose_engine(
    prepared: Prepared, subnets: Sequence[nn.Module], rows: Tensor, device: torch.device = CPU
) -> tuple[str, str]:
    """The faster engine for these subnets on this machine, by a short trial, and what says so; nothing where it is one.

    The trial trains copies; it draws no random number that anybody else would.
    """
    if len(subnets) == 1:
        return "separate", ""
    some = list(subnets[:TRIAL_MEMBERS])
    with torch.random.fork_rng():
        together = Trainer(prepared, subnets, "stacked", is_own=rows.dim() == 2, device=device)
        if all(engine == "separate" for engine in together.engines):
            return "separate", "these sub-networks, or their optimizer, cannot be stacked"
        alone = Trainer(prepared, some, "separate", device=device)
        stacked = _step_seconds(together, rows)
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
