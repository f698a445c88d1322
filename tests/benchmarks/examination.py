"""What it costs to look at a task before the clock, beside reading its data alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from cooptim_lab import Task, digits
from cooptim_lab.data.datasets import digits_rows
from cooptim_lab.preparing import prepare as module
from cooptim_lab.preparing.building import build_model
from tests.benchmarks.rows import REPEATS, Row
from tests.networks import Convolutional, Transformer

BUILT_IN, SHARE = 0.3, 0.10
"""Seconds that looking at the built-in task may take; its part of a training of one second."""


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


TASKS: dict[str, Callable[[], nn.Module]] = {
    "perceptron 64-512-512-10": wide,
    "CNN with BatchNorm": Convolutional,
    "transformer": Transformer,
}


def rows() -> list[Row]:
    """The built-in task against its bar, others against a training of a second."""
    torch.set_num_threads(1)
    found = [row("the built-in task", digits(), BUILT_IN, f"ours <= {BUILT_IN} s")]
    for name, model in TASKS.items():
        task = Task(model=model, data=digits_rows, name=name)
        found.append(row(name, task, SHARE, f"ours <= {SHARE} of a training of 1 s"))
    return found


def row(name: str, task: Task, most: float, reach: str) -> Row:
    """The examination alone: of data that is read already."""
    prepared = module.prepare(task)
    network = build_model(task.model, 0)

    def look() -> float:
        began = time.perf_counter()
        prepared.check(network, "the model", module.BATCH)
        return time.perf_counter() - began

    look()
    seconds = statistics.median(look() for _ in range(REPEATS))
    began = time.perf_counter()
    module.prepare(task)
    whole = time.perf_counter() - began
    return Row(
        name=f"{name}: looked at before the clock",
        ours=seconds,
        other=most,
        unit="s",
        ratio=seconds / most,
        reach=reach,
        holds=seconds <= most,
        note=f"batches of {module.BATCH}, one thread; with reading and holding out the data {whole:.3f} s",
    )
