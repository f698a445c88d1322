"""Parts of a network trained at the same time and merged into it, beside the network as it is: as good, in less time?

Digits (diabetes for the regression), N parts of the network's own units on 2 ranks, all options as they come, seeds in
turns with the network as it is. A family holds where the median over the seeds is within one point of accuracy (squared
error within 10 %) at P = T_c/T_p of 0.8 or less, or where it was said before the clock that no gain is to be expected.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.datasets import load_diabetes, load_digits
from torch import Tensor, nn
from torch.nn import functional

from cooptim_lab import Task, train, train_subnets
from cooptim_lab.ranks.pool import RankPool
from cooptim_lab.runs.events import Note
from tests.benchmarks.rows import REPEATS, Row

WORKERS, HELD_OUT = 2, 0.2
POINT, ERROR, REACH = 0.01, 1.1, 0.8
NO_GAIN = "no gain is to be expected"


class Convolutional(nn.Module):
    """conv-bn-relu twice, on 8×8 images."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.second, self.norm2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.last = nn.Linear(16 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x.view(-1, 1, 8, 8))))
        x = functional.max_pool2d(torch.relu(self.norm2(self.second(x))), 2)
        return self.last(x.flatten(1))


class Residual(nn.Module):
    """A block whose way past is a projection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into, self.up, self.down = nn.Linear(64, width), nn.Linear(width, width), nn.Linear(width, width // 2)
        self.projection, self.last = nn.Linear(width, width // 2), nn.Linear(width // 2, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.into(x))
        return self.last(torch.relu(self.projection(x) + self.down(torch.relu(self.up(x)))))


class Transformer(nn.Module):
    """The rows of an image are its words; `heads` heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(8, width), nn.Parameter(torch.randn(8, width) / 4)
        self.encoder = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True)
        self.last = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.encoder(self.embed(x.view(-1, 8, 8)) + self.place).mean(1))


def perceptron(width: int) -> nn.Module:
    layers = [nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)]
    return nn.Sequential(*layers)


def regression(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(10, width), nn.Tanh(), nn.Linear(width, 1))


def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    return torch.tensor(data.data / 16, dtype=torch.float32), torch.tensor(data.target)


def diabetes() -> tuple[Tensor, Tensor]:
    data = load_diabetes()
    x, y = (torch.tensor(each, dtype=torch.float32) for each in (data.data, data.target[:, None]))
    return (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()


@dataclass(frozen=True)
class Case:
    """A network, and how it is trained; `subnets` as many as it can be cut in at the most, up to 4."""

    name: str
    make: Callable[[], nn.Module]
    data: Callable[[], tuple[Tensor, Tensor]] = digits
    subnets: int = 4
    epochs: int = 20
    seeds: int = REPEATS


CASES = (
    Case("perceptron 64-512-512-10", lambda: perceptron(512)),
    Case("perceptron 64-64-64-10", lambda: perceptron(64)),
    Case("CNN with BatchNorm, 64 channels", lambda: Convolutional(64)),
    Case("CNN with BatchNorm, 16 channels", lambda: Convolutional(16)),
    Case("residual with projection, 512", lambda: Residual(512)),
    Case("residual with projection, 64", lambda: Residual(64)),
    Case("two-headed transformer, 128", lambda: Transformer(128, 2), subnets=2),
    Case("two-headed transformer, 64", lambda: Transformer(64, 2), subnets=2),
    Case("regression 10-512-1", lambda: regression(512), diabetes),
    Case("regression 10-64-1", lambda: regression(64), diabetes),
)


def rows() -> list[Row]:
    """All families."""
    with RankPool(WORKERS) as pool:
        return [family(pool, case) for case in CASES]


def family(pool: RankPool, case: Case) -> Row:
    task = Task(model=case.make, data=case.data, held_out=HELD_OUT, name=case.name)
    ours, others, said = [], [], list[str]()
    for seed in range(case.seeds):
        shared: dict[str, Any] = {"epochs": case.epochs, "seed": seed, "pool": pool}
        others.append(train(task, **shared).wait())
        run = train_subnets(task, **shared, subnets=case.subnets, workers=WORKERS, split="neurons", fuse="merge")
        ours.append(run.wait())
        said = [event.text for event in run.log.since(0) if isinstance(event, Note)]
    is_loss = ours[0].metric_name == "loss"
    mine, its = (statistics.median(result.metric for result in results) for results in (ours, others))
    seconds, baseline = (statistics.median(result.seconds for result in results) for results in (ours, others))
    is_as_good = mine <= its * ERROR if is_loss else mine >= its - POINT
    warned = any(NO_GAIN in text for text in said)
    what = "squared error" if is_loss else "accuracy"
    told = [text for text in said if text.startswith("held-out ")]
    return Row(
        name=f"merged: {case.name}, N = {case.subnets}",
        ours=seconds,
        other=baseline,
        unit="s",
        ratio=seconds / baseline,
        reach=f"<= {REACH}, {what} within {'10 %' if is_loss else 'one point'}, or no gain said before",
        holds=warned or (is_as_good and seconds <= REACH * baseline),
        note=f"{what} {spread([r.metric for r in ours])}, as it is {spread([r.metric for r in others])}; "
        + "; ".join([*(["said before: no gain"] if warned else []), *told]),
    )


def spread(scores: list[float]) -> str:
    return f"{statistics.median(scores):.3f} ({min(scores):.3f} to {max(scores):.3f})"
