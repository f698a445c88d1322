"""A step's seconds, predicted from the machine's ceilings, beside plain torch steps: 20 configurations of many kinds.

The ceilings are measured anew, on ranks; then the steps are timed in a process of their own, all configurations in
turns. None of them was looked at while the prediction was made: that was done on others.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from scipy.stats import spearmanr

from cooptim_lab import measure_ceilings
from cooptim_lab.codesign.prediction import Prediction, predict
from cooptim_lab.costs.work import Step
from cooptim_lab.hardware.ceilings import Ceilings
from tests.benchmarks.rows import Row

MEDIAN_OFF, RANK, MOST_SECONDS = 0.15, 0.9, 20.0
ROUNDS, SAMPLE_SECONDS = 9, 0.06
LENGTH, VOCABULARY, CLASSES = 32, 200, 10


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A network, its batch, and how its step is run."""

    kind: str
    """One of `NETWORKS`."""
    sizes: tuple[int, ...]
    batch: int
    threads: int = 1
    optimizer: str = "Adam"
    fused: bool = False

    @property
    def name(self) -> str:
        """In a few words."""
        sizes = "-".join(map(str, self.sizes))
        how = f"{self.optimizer} {'fused' if self.fused else 'loop'}"
        return f"{self.kind} {sizes}, batch {self.batch}, {self.threads} thread{'s' * (self.threads > 1)}, {how}"


C = Configuration
CONFIGURATIONS = (
    C(kind="perceptron", sizes=(64, 32, 32, 10), batch=16),
    C(kind="perceptron", sizes=(64, 64, 64, 10), batch=64, optimizer="SGD"),
    C(kind="perceptron", sizes=(64, 128, 128, 128, 10), batch=128, fused=True),
    C(kind="perceptron", sizes=(64, 256, 256, 10), batch=512, threads=2),
    C(kind="perceptron", sizes=(64, 512, 512, 10), batch=64),
    C(kind="perceptron", sizes=(64, 512, 512, 10), batch=64, threads=2, fused=True),
    C(kind="perceptron", sizes=(784, 1024, 1024, 10), batch=128, threads=2),
    C(kind="perceptron", sizes=(64, 1024, 1024, 10), batch=16, optimizer="SGD", fused=True),
    C(kind="perceptron", sizes=(32, *8 * (64,), 10), batch=32, threads=2),
    C(kind="perceptron", sizes=(256, 32, 10), batch=512, optimizer="SGD", fused=True),
    C(kind="cnn", sizes=(1, 8, 16), batch=64),
    C(kind="cnn", sizes=(1, 16, 32), batch=64, threads=2, fused=True),
    C(kind="cnn", sizes=(1, 32, 64), batch=256, optimizer="SGD"),
    C(kind="cnn32", sizes=(3, 16, 32), batch=32),
    C(kind="cnn32", sizes=(3, 32, 64), batch=64, threads=2, fused=True),
    C(kind="cnn32", sizes=(3, 16, 32, 64), batch=128, threads=2, optimizer="SGD"),
    C(kind="transformer", sizes=(64, 4, 2), batch=32),
    C(kind="transformer", sizes=(128, 4, 2), batch=32, threads=2, fused=True),
    C(kind="lstm", sizes=(32, 64), batch=64),
    C(kind="lstm", sizes=(64, 128), batch=32, threads=2, fused=True),
)


# In a process of its own, with torch.


def perceptron(torch: Any, sizes: Sequence[int], batch: int) -> tuple[Any, Any]:
    nn = torch.nn
    layers = [each for i, o in pairwise(sizes) for each in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers[:-1]), torch.randn(batch, sizes[0])


def pictures(side: int) -> Callable[[Any, Sequence[int], int], tuple[Any, Any]]:
    def cnn(torch: Any, sizes: Sequence[int], batch: int) -> tuple[Any, Any]:
        nn = torch.nn
        layers: list[Any] = []
        for i, o in pairwise(sizes):
            layers += [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)]
        left = side // 2 ** (len(sizes) - 1)
        layers += [nn.Flatten(), nn.Linear(sizes[-1] * left**2, CLASSES)]
        return nn.Sequential(*layers), torch.randn(batch, sizes[0], side, side)

    return cnn


def transformer(torch: Any, sizes: Sequence[int], batch: int) -> tuple[Any, Any]:
    nn, (width, heads, depth) = torch.nn, sizes

    class Encoder(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, width)
            layer = nn.TransformerEncoderLayer(width, heads, 2 * width, batch_first=True)
            self.layers = nn.TransformerEncoder(layer, depth)
            self.head = nn.Linear(width, CLASSES)

        def forward(self, x: Any) -> Any:
            return self.head(self.layers(self.embedding(x)).mean(1))

    return Encoder(), torch.randint(0, VOCABULARY, (batch, LENGTH))


def lstm(torch: Any, sizes: Sequence[int], batch: int) -> tuple[Any, Any]:
    nn, (inputs, width) = torch.nn, sizes

    class Reader(nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.cells = nn.LSTM(inputs, width, batch_first=True)
            self.head = nn.Linear(width, CLASSES)

        def forward(self, x: Any) -> Any:
            return self.head(self.cells(x)[0][:, -1])

    return Reader(), torch.randn(batch, LENGTH, inputs)


NETWORKS = {
    "perceptron": perceptron,
    "cnn": pictures(8),
    "cnn32": pictures(32),
    "transformer": transformer,
    "lstm": lstm,
}


def time_steps(configurations: Sequence[Configuration]) -> list[dict[str, Any]]:
    """Of each its counted step, and the seconds of a step in each round."""
    import torch

    from cooptim_lab.costs.counting import count_step

    torch.manual_seed(0)
    made = []
    for one in configurations:
        network, x = NETWORKS[one.kind](torch, one.sizes, one.batch)
        y = torch.randint(0, CLASSES, (one.batch,))
        kinds = {"Adam": (torch.optim.Adam, {}), "SGD": (torch.optim.SGD, {"momentum": 0.9})}
        kind, more = kinds[one.optimizer]
        how = {"fused": True} if one.fused else {}
        optimizer = kind(network.parameters(), lr=1e-4, **more, **how)
        counted = count_step(network, torch.nn.functional.cross_entropy, optimizer, x, y, name=one.name)
        made.append((one, network, x, y, optimizer, counted))
    took: list[list[float]] = [[] for _ in made]
    for _ in range(ROUNDS):
        for (one, network, x, y, optimizer, _), seconds in zip(made, took, strict=True):
            torch.set_num_threads(one.threads)

            def step(network: Any = network, x: Any = x, y: Any = y, optimizer: Any = optimizer) -> None:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(network(x), y).backward()
                optimizer.step()

            step()
            step()
            began, count = time.perf_counter(), 0
            while count < 3 or time.perf_counter() - began < SAMPLE_SECONDS:
                step()
                count += 1
            seconds.append((time.perf_counter() - began) / count)
    return [{"step": each[-1].summary(), "seconds": seconds} for each, seconds in zip(made, took, strict=True)]


# Beside each other.


@dataclass(frozen=True)
class Compared:
    """A configuration, predicted and measured."""

    configuration: Configuration
    prediction: Prediction
    measured: float
    spread: tuple[float, float]

    @property
    def off(self) -> float:
        """Of the measured seconds."""
        return self.prediction.seconds / self.measured - 1


def compared(configurations: Sequence[Configuration], ceilings: Ceilings) -> list[Compared]:
    """Each of them: timed in a process of its own, which is told them by its standard input."""
    asked = json.dumps([asdict(one) for one in configurations])
    command = [sys.executable, "-m", "tests.benchmarks.prediction"]
    told = subprocess.run(command, input=asked, capture_output=True, text=True, check=True).stdout
    found = []
    for one, each in zip(configurations, json.loads(told.splitlines()[-1]), strict=True):
        step = Step.from_summary(each["step"])
        prediction = predict(step, ceilings, threads=one.threads, fused=one.fused, optimizer=one.optimizer)
        low, middle, high = statistics.quantiles(each["seconds"], n=4, method="inclusive")
        found.append(Compared(one, prediction, middle, (low, high)))
    return found


def table(rows: Sequence[Compared]) -> str:
    """A line for each."""
    lines = []
    for row in rows:
        parts = ", ".join(f"{name} {1e3 * part:.3f}" for name, part in row.prediction.parts.items())
        low, high = row.spread
        lines.append(
            f"{row.configuration.name:72s} measured {1e3 * row.measured:8.3f} ms ({1e3 * low:.3f} to {1e3 * high:.3f}) "
            f"predicted {1e3 * row.prediction.seconds:8.3f} ({100 * row.off:+.0f} %): {parts}"
        )
    return "\n".join(lines)


def rows() -> list[Row]:
    """The median error, the rank correlation, and how long the ceilings take."""
    ceilings = measure_ceilings(again=True).wait()
    found = compared(CONFIGURATIONS, ceilings)
    print(table(found), flush=True)
    worst = max(found, key=lambda row: abs(row.off))
    middle = statistics.median(abs(row.off) for row in found)
    rank = float(spearmanr([row.prediction.seconds for row in found], [row.measured for row in found]).statistic)
    named = f"worst: {worst.configuration.name}, {100 * worst.off:+.0f} %"
    doubts = "; ".join(ceilings.doubts)
    return [
        Row(
            name=f"a step predicted, {len(found)} configurations: median error",
            ours=100 * middle,
            other=100 * MEDIAN_OFF,
            unit="%",
            ratio=middle / MEDIAN_OFF,
            reach=f"at most {100 * MEDIAN_OFF:g} %",
            holds=middle <= MEDIAN_OFF,
            note=named + (f"; {doubts}" if doubts else ""),
        ),
        Row(
            name="the same: rank correlation of predicted and measured",
            ours=rank,
            other=RANK,
            unit="",
            ratio=rank / RANK,
            reach=f"at least {RANK:g}",
            holds=rank >= RANK,
            note="Spearman's",
        ),
        Row(
            name="all ceilings measured",
            ours=ceilings.seconds,
            other=MOST_SECONDS,
            unit="s",
            ratio=ceilings.seconds / MOST_SECONDS,
            reach=f"at most {MOST_SECONDS:g} s",
            holds=ceilings.seconds <= MOST_SECONDS,
            note=f"{len(ceilings.rows)} figures",
        ),
    ]


if __name__ == "__main__":
    given = [Configuration(**{**one, "sizes": tuple(one["sizes"])}) for one in json.load(sys.stdin)]
    print(json.dumps(time_steps(given)))
