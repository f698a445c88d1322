"""Sub-networks trained at once, beside TorchEnsemble, a plain loop, a `torch.func` recipe and the bare matrix products.

Digits, 3 epochs, batches of 64. Ours is the run's own clock: steps, communication and fusion, on all cores. The peers
run in this process, each at the better of one thread and all (the plain loop also as torch has it by default: all), and
are timed around their loops alone.
"""

from __future__ import annotations

import itertools
import logging
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

from cooptim_lab import Task, train_subnets
from cooptim_lab.hardware import allowed_cpus
from cooptim_lab.ranks.pool import RankPool
from cooptim_lab.runs.result import Result
from tests.benchmarks.rows import REPEATS, Row

EPOCHS, BATCH, HELD_OUT, LR = 3, 64, 0.2, 1e-3
CPUS = allowed_cpus()
SCALE = (8, 32, 128, 512)
PLOT = Path("build") / "subnets.png"


def perceptron(width: int) -> nn.Module:
    layers = [nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)]
    return nn.Sequential(*layers)


class Convolutional(nn.Module):
    """conv-bn-relu twice, on 8×8 images."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.second, self.norm2 = nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width)
        self.last = nn.Linear(2 * width * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.first(x.view(-1, 1, 8, 8))))
        x = functional.max_pool2d(torch.relu(self.norm2(self.second(x))), 2)
        return self.last(x.flatten(1))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    digits = load_digits()
    return torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)


def split() -> tuple[torch.Tensor, ...]:
    """Training rows and held-out rows, as many as the kit's."""
    x, y = data()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    held = round(HELD_OUT * len(x))
    return x[order[held:]], y[order[held:]], x[order[:held]], y[order[:held]]


def rows() -> list[Row]:
    """All rows of the section on sub-networks in README."""
    with RankPool(CPUS) as pool:
        return [
            *many(pool),
            against_loop(pool, "N = 4, width 16, beside a plain loop", 4, lambda: perceptron(16), 1.0),
            against_loop(pool, "N = 8, width 256, beside a plain loop", 8, lambda: perceptron(256), 1 / 1.8),
            against_loop(pool, "N = 8 small CNN, beside a plain loop", 8, Convolutional, 1 / 2),
            scale(pool),
        ]


def many(pool: RankPool) -> list[Row]:
    """N = 32 perceptrons 64-64-64-10."""
    count = 32
    peers: dict[str, tuple[Callable[[], float], float | None]] = {
        "TorchEnsemble at its best n_jobs": (at_best(torch_ensemble, (1, 2, 4), count), 1 / 10),
        "a plain loop with a fused optimizer": (at_best(loop, (CPUS,), count, lambda: perceptron(64)), 1 / 8),
        "the same loop at its best number of threads": (at_best(loop, (1, CPUS), count, lambda: perceptron(64)), None),
        "a torch.func vmap recipe": (at_best(vmap_recipe, (1, CPUS), count, lambda: perceptron(64)), 1 / 1.5),
        "the bare matrix products": (at_best(bare_products, (1, CPUS), count, 64), 2.5),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
    for _ in range(REPEATS):
        result = ours(pool, count, lambda: perceptron(64))
        seconds["ours"].append(result.seconds)
        for name, (measure, _) in peers.items():
            seconds[name].append(measure())
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return [
        as_row(f"N = 32, 64-64-64-10, beside {name}", medians["ours"], medians[name], reach, f"engine {result.engine}")
        for name, (_, reach) in peers.items()
    ]


def against_loop(pool: RankPool, name: str, count: int, make: Callable[[], nn.Module], reach: float) -> Row:
    others: list[float] = []  # held-out accuracies of the loop's networks
    measure = at_best(loop, (1, CPUS), count, make, others)
    others.clear()
    mine, seconds, other = [], [], []
    for repeat in range(REPEATS):
        result = ours(pool, count, make, seed=repeat)
        seconds.append(result.seconds)
        mine += result.subnet_scores
        other.append(measure())
    note = f"engine {result.engine}; one network, held out: {spread(mine)}, in the loop {spread(others)}"
    row = as_row(name, statistics.median(seconds), statistics.median(other), reach, note)
    is_as_good = abs(statistics.mean(mine) - statistics.mean(others)) <= statistics.stdev(others)
    return replace(row, reach=f"{row.reach}, as good within its spread", holds=row.holds and is_as_good)


def scale(pool: RankPool) -> Row:
    """Time and memory per subnet as N grows; the plot is written to `PLOT`."""
    times, memory = [], []
    for count in SCALE:
        runs = [ours(pool, count, lambda: perceptron(64)).seconds for _ in range(REPEATS)]
        times.append(statistics.median(runs) / count)
        memory.append(peak_memory(count))
    figure = Figure(figsize=(7, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.loglog(SCALE, [1e3 * value for value in times], "o-", base=2)
    left.set(xlabel="N", ylabel="ms per sub-network", title="time")
    right.loglog(SCALE, memory, "o-", base=2)
    right.set(xlabel="N", ylabel="MiB above an idle rank", title="memory of one rank")
    PLOT.parent.mkdir(exist_ok=True)
    figure.savefig(PLOT, dpi=120)
    told = ", ".join(f"N {n}: {1e3 * t:.2f} ms, {m:.0f} MiB" for n, t, m in zip(SCALE, times, memory, strict=True))
    worst = max(later / earlier for earlier, later in itertools.pairwise(times))
    growth = (memory[-1] / memory[-2]) / (SCALE[-1] / SCALE[-2])
    return Row(
        name="N = 8 to 512: seconds per sub-network, the last beside the first",
        ours=times[-1],
        other=times[0],
        unit="s",
        ratio=times[-1] / times[0],
        reach="time per sub-network never grows by more than 10 %, memory not more than linearly",
        holds=worst <= 1.1 and growth <= 1.1,
        note=f"{told}; plot in {PLOT}",
    )


def as_row(name: str, ours: float, other: float, reach: float | None, note: str) -> Row:
    said = "none: measured" if reach is None else f"<= {reach:.3g}"
    return Row(name, ours, other, "s", ours / other, said, reach is None or ours / other <= reach, note)


def spread(scores: Sequence[float]) -> str:
    return f"{100 * statistics.mean(scores):.1f} ± {100 * statistics.stdev(scores):.1f} %"


def at_best(measure: Callable[..., float], settings: Sequence[int], *arguments: Any) -> Callable[[], float]:
    """A peer at the setting at which it is fastest here, found by one run of each after a first one that warms up."""
    measure(settings[0], *arguments)
    best = min(dict.fromkeys(settings), key=lambda setting: measure(setting, *arguments))
    return lambda: measure(best, *arguments)


# Ours.


def ours(pool: RankPool, count: int, make: Callable[[], nn.Module], *, workers: int = CPUS, seed: int = 0) -> Result:
    task = Task(
        model=make,
        data=data,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=LR),
        subnet=lambda i: make(),
        held_out=HELD_OUT,
        name="digits",
    )
    return train_subnets(task, subnets=count, workers=workers, epochs=EPOCHS, batch=BATCH, seed=seed, pool=pool).wait()


def peak_memory(count: int) -> float:
    """MiB that the training adds to the peak of a fresh rank, which has all of them."""

    def peak(context: Any) -> int:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with RankPool(1) as fresh:
        ours(fresh, 8, lambda: perceptron(64), workers=1)
        (before,) = fresh.run(peak)
        ours(fresh, count, lambda: perceptron(64), workers=1)
        return max(1.0, (fresh.run(peak)[0] - before) / 1024)


# The peers. The first argument is their setting: threads, or jobs.


def batches(rows: int) -> tuple[torch.Tensor, ...]:
    return torch.randperm(rows).split(BATCH)


def loop(threads: int, count: int, make: Callable[[], nn.Module], scores: list[float] | None = None) -> float:
    """One network after the other."""
    torch.set_num_threads(threads)
    x, y, held_x, held_y = split()
    networks = [make() for _ in range(count)]
    began = time.perf_counter()
    for network in networks:
        optimizer = torch.optim.Adam(network.parameters(), lr=LR, fused=True)
        for _ in range(EPOCHS):
            for rows in batches(len(x)):
                optimizer.zero_grad()
                functional.cross_entropy(network(x[rows]), y[rows]).backward()
                optimizer.step()
    seconds = time.perf_counter() - began
    if scores is not None:
        with torch.no_grad():
            scores += [float((n.eval()(held_x).argmax(1) == held_y).double().mean()) for n in networks]
    return seconds


def vmap_recipe(threads: int, count: int, make: Callable[[], nn.Module]) -> float:
    """As torch's tutorial on model ensembling, with an optimizer for the stacked parameters."""
    torch.set_num_threads(threads)
    x, y, *_ = split()
    networks = [make() for _ in range(count)]
    parameters, buffers = torch.func.stack_module_state(networks)
    parameters = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    template = networks[0]

    def call(parameters: dict, buffers: dict, x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(template, (parameters, buffers), (x,))

    together = torch.vmap(call, in_dims=(0, 0, None))
    losses = torch.vmap(functional.cross_entropy, in_dims=(0, None))
    began = time.perf_counter()
    optimizer = torch.optim.Adam(parameters.values(), lr=LR)
    for _ in range(EPOCHS):
        for rows in batches(len(x)):
            optimizer.zero_grad()
            losses(together(parameters, buffers, x[rows]), y[rows]).sum().backward()
            optimizer.step()
    return time.perf_counter() - began


def bare_products(threads: int, count: int, width: int) -> float:
    """The matrix products of forward and backward alone, batched: what no way of training can do without."""
    torch.set_num_threads(threads)
    widths = (64, width, width, 10)
    weights = [torch.randn(count, a, b) for a, b in itertools.pairwise(widths)]
    values = [torch.randn(count, BATCH, w) for w in widths]
    steps = EPOCHS * len(batches(len(split()[0])))
    began = time.perf_counter()
    for _ in range(steps):
        for layer, weight in enumerate(weights):
            torch.bmm(values[layer], weight)
            torch.bmm(values[layer].transpose(1, 2), values[layer + 1])
            if layer:
                torch.bmm(values[layer + 1], weight.transpose(1, 2))
    return time.perf_counter() - began


def torch_ensemble(jobs: int, count: int) -> float:
    """TorchEnsemble 0.2.0's VotingClassifier, its log kept quiet."""
    from torchensemble import VotingClassifier

    torch.set_num_threads(CPUS)
    logging.getLogger("torchensemble").setLevel(logging.ERROR)
    x, y, *_ = split()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=BATCH, shuffle=True)
    ensemble = VotingClassifier(estimator=perceptron(64), n_estimators=count, cuda=False, n_jobs=jobs)
    ensemble.logger = logging.getLogger("torchensemble")
    ensemble.set_optimizer("Adam", lr=LR)
    began = time.perf_counter()
    ensemble.fit(loader, epochs=EPOCHS, log_interval=10**6, save_model=False)
    return time.perf_counter() - began
