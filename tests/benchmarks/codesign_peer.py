"""Another tuner on the same task, in its own process and environment: seconds to the goal beside torch's default.

    python -m tests.benchmarks.codesign_peer DATA.npz NETWORK GOAL accuracy|loss EPOCHS

The last line that it prints is JSON: what it chose, how long it searched, and for each seed its seconds to the goal
over those of the default in the same process (None: it never got there).
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pytorch_autotune import autotune
from torch import nn
from torch.nn.functional import cross_entropy

from tests.benchmarks.codesign_networks import NETWORKS

SEEDS, BATCH, HELD_OUT = 5, 64, 0.2


def train(
    network: nn.Module, step: Callable[[torch.Tensor, torch.Tensor], Any], data: tuple[torch.Tensor, ...], goal: float,
    is_accuracy: bool, epochs: int, seed: int,
) -> float:  # fmt: skip
    """Seconds of training until the first epoch that reaches the goal; infinite where none does."""
    x, y, held_x, held_y = data
    seconds, generator = 0.0, torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        began = time.perf_counter()
        for rows in torch.randperm(len(x), generator=generator).split(BATCH):
            step(x[rows], y[rows])
        seconds += time.perf_counter() - began
        network.eval()
        with torch.no_grad():
            outputs = network(held_x)
        network.train()
        right = float((outputs.argmax(1) == held_y).float().mean())
        if right >= goal if is_accuracy else float(cross_entropy(outputs, held_y)) <= goal:
            return seconds
    return math.inf


def plain(network: nn.Module) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """The step that everybody writes first."""
    optimizer = torch.optim.Adam(network.parameters())

    def step(x: torch.Tensor, y: torch.Tensor) -> None:
        optimizer.zero_grad()
        cross_entropy(network(x), y).backward()
        optimizer.step()

    return step


def main() -> None:
    """Read the arguments, print the JSON."""
    path, name, goal, kind, epochs = sys.argv[1:]
    arrays = np.load(path)
    x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    held, rest = order[: int(HELD_OUT * len(x))], order[int(HELD_OUT * len(x)) :]
    data = (x[rest], y[rest], x[held], y[held])
    ratios, chose, search = [], "", 0.0
    for seed in range(SEEDS):
        took = []
        for is_tuned in (True, False) if seed % 2 else (False, True):
            torch.manual_seed(seed)
            network = NETWORKS[name]()
            step = plain(network)
            if is_tuned:
                began = time.perf_counter()
                found = autotune(
                    network, (data[0][:BATCH], data[1][:BATCH]), loss_fn=cross_entropy,
                    optimizer=torch.optim.Adam, budget="fast", cache=True, device="cpu", verbose=False,
                )  # fmt: skip
                search, chose = max(search, time.perf_counter() - began), _winner(found)
                network, step = found.model, found.step
            took.append((is_tuned, train(network, step, data, float(goal), kind == "accuracy", int(epochs), seed)))
        seconds = dict(took)
        if math.isfinite(seconds[False]):
            ratio = seconds[True] / seconds[False]
            ratios.append(ratio if math.isfinite(ratio) else None)
    print(json.dumps({"ratios": ratios, "chose": chose, "search": search}))


def _winner(found: Any) -> str:
    """The line of its report that says what it chose."""
    lines = [line for line in str(found.report).splitlines() if "winner" in line or "baseline" in line]
    return " ".join((lines or ["no winner named"])[-1].split())


if __name__ == "__main__":
    main()
