"""Networks that are no sum of their rows, over ranks: what differs from one process is said, and nothing else differs.

Run under mpiexec; every rank asserts.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor, nn

from cooptim_lab import Task
from cooptim_lab.comm.context import Context
from cooptim_lab.preparing.prepare import prepare
from cooptim_lab.runs.events import Note
from cooptim_lab.shards.program import train_sharded
from cooptim_lab.training.spec import Sharded
from tests.one_process import distance, train_alone

ROWS = 61  # 49 to train on: in batches of 24, the last has one row
comm = MPI.COMM_WORLD
rank, size = comm.Get_rank(), comm.Get_size()
torch.set_num_threads(1)

X = torch.randn(ROWS, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > X[:, 1]).long() + (X[:, 2] > 0)


def task_of(model: Any) -> Task:
    return Task(model=model, data=(X, Y), loss=nn.CrossEntropyLoss(), optimizer=lambda p: torch.optim.SGD(p, lr=0.1))


def train(model: Any, spec: Sharded) -> tuple[Any, list[Note]]:
    """The result, on every rank, and what rank 0 noted."""
    events: list[Any] = []
    result = train_sharded(Context(comm, lambda *new: events.extend(new), lambda: False), task_of(model), spec)
    notes = [event for event in events if isinstance(event, Note)]
    return comm.bcast((result, notes), root=0)


class Centred(nn.Module):
    """Rows meet in its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 7), nn.Linear(7, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(torch.relu(h - h.mean(0, keepdim=True)))


class Averaging(Centred):
    """It keeps a mean of the rows that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(7, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if self.training:
            self.kept.lerp_(h.detach().mean(0), 0.1)
        return self.b(torch.relu(h))


for way in ("server", "allreduce", "ordered", "local"):
    for model, said in ((Centred, "the outputs"), (Averaging, "what it keeps in kept")):
        _, notes = train(model, Sharded(workers=size, aggregate=way, epochs=2, batch=24))
        about = [note for note in notes if said in note.text]
        assert len(about) == (size > 1), (way, notes)
        assert all("differs from one process" in note.text and note.is_doubt for note in about)


# Noise in the forward does not hide it; where it does, that is said.
class Noisy(Centred):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        h = h - h.mean(0, keepdim=True)
        return self.b(torch.relu(h + 0.1 * torch.randn_like(h)))


class Shaken(Centred):
    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(torch.relu(h + 0.1 * torch.from_numpy(np.random.normal(size=h.shape))))


for model, said in ((Noisy, "rows of a batch meet in the network"), (Shaken, "whether its rows meet")):
    _, notes = train(model, Sharded(workers=size, epochs=2, batch=24))
    about = [note for note in notes if said in note.text]
    assert len(about) == (size > 1), (model, notes)


# Where outputs in evaluation mode depend on the other rows, all held-out rows are scored together.
def normed() -> nn.Module:
    norm = nn.BatchNorm1d(7, track_running_stats=False)
    return nn.Sequential(nn.Linear(6, 7), norm, nn.ReLU(), nn.Linear(7, 3)).double()


for model in (normed, Centred):
    result, _ = train(model, Sharded(workers=size, epochs=2, batch=17))
    prepared = prepare(task_of(model))
    score = prepared.score(prepared.outputs(result.network))
    assert (result.loss, result.metric) == (score.loss, score.metric), (model, result.loss, score)


# What a network counts goes on where a rank has no rows.
class Counting(Centred):
    """It counts its calls in two ways, and computes by them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
            self.seen += 1
        return self.b(torch.relu(self.a(x)) * (0.1 * self.calls + 0.01 * self.seen))


for way in ("server", "allreduce", "ordered", "shared"):
    spec = Sharded(workers=size, aggregate=way, epochs=4, batch=24)
    result, notes = train(Counting, spec)
    plain = train_alone(task_of(Counting), spec, size)
    assert (plain.calls, int(plain.seen)) == (result.network.calls, int(result.network.seen)) == (12, 12)
    assert distance(result.network, plain) < 1e-11, way
    assert not any("differs" in note.text for note in notes), notes
