"""A loss whose divisor only rare rows show: refused over ranks before the clock, trained in every other way.

Run under mpiexec; every rank asserts. Beside it what would be trained: another network than in one process. In float64.
"""

from __future__ import annotations

from typing import Any

import torch
from mpi4py import MPI
from torch import Tensor, nn

from cooptim_lab import Task
from cooptim_lab.comm.context import Context
from cooptim_lab.data.holding import draw_held_out, hold_out
from cooptim_lab.preparing.reduction import MOST_ROWS
from cooptim_lab.programs import train_baseline, train_subnets
from cooptim_lab.runs.events import Note
from cooptim_lab.shards import shard
from cooptim_lab.shards.program import train_sharded
from cooptim_lab.training.spec import Baseline, Sharded, Subnets
from tests.one_process import distance, train_alone
from tests.support import SoloComm

ROWS = 120
comm = MPI.COMM_WORLD
rank, size = comm.Get_rank(), comm.Get_size()
torch.set_num_threads(1)

X = torch.randn(ROWS, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = X[:, :2] * 2
FIRST = draw_held_out(ROWS, 0.2, 0)[0][:MOST_ROWS]  # of one process: asked what the loss divides by
RARE = [row for row in hold_out(ROWS, 0.2, 0)[0].tolist() if row not in FIRST][-8:]  # the last rank's, and its last
Y[RARE, 1] = torch.nan


def masked(outputs: Tensor, y: Tensor) -> Tensor:
    known = ~y.isnan()
    return (outputs[known] - y[known]).square().mean()


def by_rows(outputs: Tensor, y: Tensor) -> Tensor:
    return torch.where(y.isnan(), 0.0, outputs - y).square().sum() / len(y)


def train(loss: Any, way: str) -> tuple[float, list[str]]:
    """How far it is from one process, and what was noted."""
    events: list[Any] = []
    spec = Sharded(workers=size, aggregate=way, epochs=1, batch=10, shards="order")
    result = train_sharded(Context(comm, lambda *new: events.extend(new), lambda: False), task_of(loss), spec)
    notes = [event.text for event in events if isinstance(event, Note)]
    network = comm.bcast(result.network if result else None, root=0)
    return distance(network, train_alone(task_of(loss), spec, size)), comm.bcast(notes, root=0)


def task_of(loss: Any) -> Task:
    return Task(
        model=lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 2)).double(),
        data=(X, Y),
        loss=loss,
        held_out=0.2,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.05),
    )


SAID = "the gradient of loss is not that of its parts"
assert train(by_rows, "allreduce")[0] < 1e-12
for way in ("server", "allreduce", "ordered", "shared"):
    if size == 1:
        assert train(masked, way)[0] < 1e-12, way
        continue
    try:
        train(masked, way)
    except ValueError as error:
        assert SAID in str(error), str(error)
        assert "some with the most missing values in y" in str(error), str(error)
        assert "\n" not in str(error), str(error)
    else:
        raise AssertionError(f"{way}: a loss that ranks cannot weigh has trained")
_, notes = train(masked, "local")
assert sum(SAID in note for note in notes) == (size > 1), notes

alone = Context(SoloComm(), lambda *new: None, lambda: False)
for program, spec in ((train_baseline, Baseline(epochs=1)), (train_subnets, Subnets(subnets=2, epochs=1))):
    assert program(alone, task_of(masked), spec).state == "done"

# Breakage: not looked for, it trains another network, and nobody says so.
if size > 1:
    shard.see_parts = lambda *given: None
    away, notes = train(masked, "allreduce")
    assert away > 1e-4, away
    assert not any(SAID in note for note in notes), notes
