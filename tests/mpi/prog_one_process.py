"""The way `sharded` on any number of ranks is one plain process: whole trainings of tasks of many kinds, in float64.

Run under mpiexec; rank 0, which has the network, compares. The plain process takes at every step the union of the
ranks' parts and is written out here: forward, backward, clip, step, schedule. Beside it breakages: parts weighed by
rows alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor, nn
from torch.nn import functional as F

from cooptim_lab import Task
from cooptim_lab.comm.context import Context
from cooptim_lab.runs.events import Note
from cooptim_lab.shards.aggregate import shared
from cooptim_lab.shards.program import train_sharded
from cooptim_lab.training.spec import Sharded
from tests.one_process import distance, train_alone

ROWS, EPOCHS, TOLERANCE = 59, 4, 1e-11  # 47 to train on: no M divides them, and a batch of 23 leaves one row
comm = MPI.COMM_WORLD
rank, size = comm.Get_rank(), comm.Get_size()
torch.set_num_threads(1)
shared.UNDIVIDED = 0  # these networks are too small to be divided, and that is what may go wrong

random = torch.Generator().manual_seed(0)
X = torch.randn(ROWS, 6, dtype=torch.float64, generator=random)
Y = (X[:, 0] > X[:, 1]).long() + (X[:, 2] > 0)
IGNORED = torch.where(torch.arange(ROWS) % 3 > 0, -100, Y)
WEIGHTS = torch.tensor([10.0, 1.0, 3.0], dtype=torch.float64)
TOKENS = torch.randint(1, 9, (ROWS, 4), generator=random) * (torch.arange(ROWS)[:, None] % 5 > torch.arange(4))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 7, bias=False), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3)).double()


def writing() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 36), nn.Tanh(), nn.Unflatten(1, (9, 4))).double()


def pictures() -> nn.Module:
    """Of one row, BatchNorm has the places of a picture to normalise over."""
    layers = [
        nn.Unflatten(1, (1, 2, 3)),
        nn.Conv2d(1, 4, 2),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8, 3),
    ]
    return nn.Sequential(*layers).double()


class Frozen(nn.Module):
    """Its BatchNorm is in evaluation mode while it trains, by the model's own `train`."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n, self.b = nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Linear(7, 3)
        self.double()

    def train(self, mode: bool = True) -> Frozen:
        super().train(mode)
        self.n.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.n(self.a(x))))


class Scaled(nn.BatchNorm1d):
    """A forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x) * 0.5


class InAList(nn.Module):
    """Its layers are called through a list, and one BatchNorm by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n, self.b = nn.Linear(6, 7, bias=False), Scaled(7), nn.Linear(7, 3)
        self.register_buffer("mean", torch.zeros(7))
        self.register_buffer("var", torch.ones(7))
        self.steps = [self.a, self.n, self.b]
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.steps[1](self.steps[0](x)))
        h = F.batch_norm(h, self.mean, self.var, training=self.training)
        return self.steps[2](h)


class Spare(nn.Module):
    """A part of it is used by some rows only, and one never."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.never = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(6, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        out = self.a(x)
        chosen = x[:, 0] > 1.2
        if chosen.any():
            out = out + self.b(x) * chosen.unsqueeze(1)
        return out


def momentum(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def decaying(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.05)


def by_shape(parameters: Any) -> torch.optim.Optimizer:
    given = list(parameters)
    wide, flat = [p for p in given if p.dim() > 1], [p for p in given if p.dim() < 2]
    return torch.optim.AdamW([{"params": wide, "weight_decay": 0.3}, {"params": flat, "weight_decay": 0.0}], lr=0.01)


def by_name(pairs: Any) -> torch.optim.Optimizer:
    pairs = list(pairs)
    biases, others = [p for n, p in pairs if n.endswith("bias")], [p for n, p in pairs if not n.endswith("bias")]
    return torch.optim.SGD([{"params": others, "weight_decay": 0.1}, {"params": biases, "lr": 0.5}], lr=0.1)


def warming(optimizer: Any, steps: int) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / steps)


def own_weights(outputs: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(outputs, y, weight=WEIGHTS)


def summed(outputs: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(outputs, y, reduction="sum")


def unpadded(outputs: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(outputs, y, ignore_index=0)


@dataclass(frozen=True)
class Kind:
    """A task that is to be equal."""

    model: Callable[[], nn.Module] = mlp
    y: Tensor = field(default_factory=lambda: Y)
    loss: Any = None
    said: dict[str, Any] = field(default_factory=dict)
    batch: int = 10
    differs: bool = False
    """Whether plain 1/M on parts gives something else."""


KINDS = {
    "a mean": Kind(),
    "ignored labels": Kind(y=IGNORED, differs=True),
    "class weights": Kind(loss=nn.CrossEntropyLoss(weight=WEIGHTS), differs=True),
    "weights of its own": Kind(loss=own_weights, differs=True),
    "tokens": Kind(writing, y=TOKENS, loss=nn.CrossEntropyLoss(ignore_index=0), differs=True),
    "tokens, a loss of its own": Kind(writing, y=TOKENS, loss=unpadded, differs=True),
    "a sum": Kind(loss=summed, said={"optimizer": lambda p: torch.optim.SGD(p, lr=0.01)}, differs=True),
    "BatchNorm": Kind(normed),
    "BatchNorm, ignored labels": Kind(normed, y=IGNORED, differs=True),
    "a frozen BatchNorm": Kind(Frozen),
    "BatchNorm in a list, subclassed, by hand": Kind(InAList),
    "unused parameters, decay": Kind(Spare, said={"optimizer": decaying}),
    "decay by shape": Kind(said={"optimizer": by_shape}),
    "decay by name": Kind(said={"named": by_name}),
    "a schedule": Kind(said={"optimizer": momentum, "scheduler": warming}),
    "a bounded gradient": Kind(said={"optimizer": momentum, "clip": 0.05}),
    "a batch of one row": Kind(batch=23),
    "parts of one row": Kind(batch=size),
    "BatchNorm, a rank without rows": Kind(pictures, batch=23),
}


def task_of(kind: Kind) -> Task:
    given = {"optimizer": momentum, **kind.said}
    if "named" in given:
        del given["optimizer"]
    return Task(model=kind.model, data=(X, kind.y), loss=kind.loss, **given)


def differ(network: nn.Module | None, kind: Kind, spec: Sharded) -> float:
    """How far a network is from the one that one process trains; on rank 0, and 0 on the others, who have none."""
    return 0.0 if network is None else distance(network, alone(kind, spec))


def alone(kind: Kind, spec: Sharded) -> nn.Module:
    """Trained once for each kind: a plain process knows of no way to aggregate."""
    if id(kind) not in plain:
        plain[id(kind)] = train_alone(task_of(kind), spec, size)
    return plain[id(kind)]


plain: dict[int, nn.Module] = {}


def train(kind: Kind, spec: Sharded) -> tuple[nn.Module | None, list[str]]:
    events: list[Any] = []
    result = train_sharded(Context(comm, lambda *new: events.extend(new), lambda: False), task_of(kind), spec)
    return result and result.network, [event.text for event in events if isinstance(event, Note)]


WAYS = ("server", "allreduce", "ordered", "shared")
for place, (name, kind) in enumerate(KINDS.items()):
    # The ways take turns, two of them on two ranks, so that each kind meets all of them and each of these all kinds.
    for turn in (0, 1) if size == 2 else (0,):
        way = WAYS[(place + size + turn) % len(WAYS)]
        spec = Sharded(workers=size, aggregate=way, epochs=EPOCHS, batch=kind.batch)
        network, notes = train(kind, spec)
        found = differ(network, kind, spec)
        assert found < TOLERANCE, (name, way, found)
        assert not any("ranks hold different" in note for note in notes), (name, notes)

# Breakage: of a loss that divides by something else, parts weighed by their rows are another training.
if size > 1:
    from cooptim_lab.preparing import reduction

    known = reduction.Reduction.weight
    for name, kind in KINDS.items():
        if kind.differs:
            reduction.Reduction.weight = lambda self, y: float(len(y))
            spec = Sharded(workers=size, aggregate="allreduce", epochs=EPOCHS, batch=kind.batch)
            try:
                network, _ = train(kind, spec)
                broken = rank > 0 or differ(network, kind, spec) > 1e-6
            except ValueError:  # a part whose labels are all ignored has no loss
                broken = True
            reduction.Reduction.weight = known
            assert broken, f"{name}: weighed by rows it is no other training"


# Half precision beside BatchNorm: its sums are in float32.
class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.n, self.b = nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.n(self.a(x).bfloat16())
        assert h.dtype == torch.bfloat16
        return self.b(h.float())


kind = Kind(Half)
network, _ = train(kind, Sharded(workers=size, aggregate="allreduce", epochs=2, batch=10))
assert network is None or np.isfinite(distance(network, network))


# A network that branches on its data ends in one line on every rank, and nobody waits.
class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.n, self.b = nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Linear(7, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(self.n(h) if x[:, 0].mean() > 0 else h)


if size > 1:
    try:
        train(Kind(Branching), Sharded(workers=size, aggregate="allreduce", epochs=3, batch=10))
    except ValueError as error:
        assert "BatchNorm is reached on some ranks and not on others" in str(error), str(error)
    else:
        raise AssertionError("a network that branches has trained")


# What ranks do to their own weights is told of.
class Renormed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e = nn.Embedding(200, 4, max_norm=0.5)
        self.b = nn.Linear(4, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.e((x[:, 0] * 50).long().abs().clamp(max=199)))


_, notes = train(Kind(Renormed), Sharded(workers=size, aggregate="allreduce", epochs=2, batch=10))
if size > 1 and rank == 0:
    assert any("ranks hold different values of e.weight" in note for note in notes), notes
try:
    train(Kind(Renormed), Sharded(workers=size, aggregate="shared", epochs=2, batch=10))
except ValueError as error:
    assert "the model writes to its own parameters while it computes" in str(error), str(error)
else:
    raise AssertionError("what a rank does to its weights was done to all ranks' weights")
