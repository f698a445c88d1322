"""Networks and tasks drawn at random, trained in every way beside one plain process, in float64.

    mpiexec -n M python -m tests.random_networks [COUNT [FIRST]]

Each is equal where that is claimed, refused in one line, or a failure: a raw traceback, or another result without a
word. Seeded by its number, so a failure can be drawn again. Rank 0 prints a line for each that fails, and the counts.
"""

from __future__ import annotations

import random
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cooptim_lab import InputError, Task
from cooptim_lab.comm.context import Context
from cooptim_lab.preparing.prepare import prepare
from cooptim_lab.programs import train_baseline, train_sharded, train_subnets
from cooptim_lab.shards.aggregate import shared
from cooptim_lab.training.loop import batches
from cooptim_lab.training.spec import Baseline, Sharded, Subnets
from tests.one_process import distance, train_alone

ROWS, EPOCHS, TOLERANCE = 61, 3, 1e-9
shared.UNDIVIDED = 0  # so that small networks are divided too
WAYS = ("server", "allreduce", "ordered", "shared")
ACTIVATIONS = (nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Softplus)


class Drawn(nn.Module):
    """A network of a random make: blocks with norms and skips, buffers, frozen and unused parts, plain tensors."""

    def __init__(self, number: int) -> None:
        super().__init__()
        draw = random.Random(number)
        self.is_image = draw.random() < 0.25
        width = draw.choice([4, 6, 8])
        if self.is_image:
            self.first: nn.Module = nn.Conv2d(1, width, 3, padding=1, bias=draw.random() < 0.5)
            norms = [nn.BatchNorm2d(width), nn.GroupNorm(2, width), nn.Identity()]
        else:
            self.first = nn.Linear(9, width, bias=draw.random() < 0.7)
            norms = [nn.BatchNorm1d(width), nn.LayerNorm(width), nn.Identity(), nn.Identity()]
        self.norm, self.act = draw.choice(norms), draw.choice(ACTIVATIONS)()
        flat = width * 9 if self.is_image else width
        self.blocks = nn.ModuleList(nn.Linear(flat, flat) for _ in range(draw.randrange(3)))
        self.skips = [draw.random() < 0.5 for _ in self.blocks]
        self.outputs = draw.choice([1, 3, 3, 3])
        self.head = nn.Linear(flat, self.outputs)
        self.counts = draw.random() < 0.3
        if self.counts:
            self.register_buffer("seen", torch.zeros(()))
        self.shift = torch.tensor(np.random.randn(flat)) if draw.random() < 0.3 else None
        if draw.random() < 0.2:
            self.unused = nn.Linear(3, 3)
        self.some = nn.Linear(flat, flat) if draw.random() < 0.15 else None
        if draw.random() < 0.2:
            self.first.weight.requires_grad_(False)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.norm(self.first(x.view(-1, 1, 3, 3) if self.is_image else x))).flatten(1)
        if self.shift is not None:
            h = h + self.shift
        for block, skip in zip(self.blocks, self.skips, strict=True):
            h = self.act(block(h)) + (h if skip else 0)
        if self.some is not None:
            chosen = x.flatten(1)[:, 0] > 1
            if chosen.any():
                h = h + self.some(h) * chosen.unsqueeze(1)
        if self.counts and self.training:
            self.seen += 1
        return self.head(h)


def draw_task(number: int) -> tuple[Task, int]:
    """A task, and rows of a step."""
    draw = random.Random(number + 1)
    torch.manual_seed(number)
    x = torch.randn(ROWS, 9, dtype=torch.float64)
    outputs = Drawn(number).outputs
    classes = (x[:, 0] > 0).long() + (x[:, 1] > 0.5)
    loss: Any = None
    if outputs == 1:
        kind = draw.choice(["squared", "logits", "counts", "summed squares", "column"])
        y: Tensor = x[:, :1] * 2
        if kind == "logits":
            y, loss = (x[:, 0] > 0).long(), lambda o, y: F.binary_cross_entropy_with_logits(o.squeeze(1), y.double())
        elif kind == "counts":
            y, loss = (x[:, 0].exp()).long(), lambda o, y: F.poisson_nll_loss(o.squeeze(1), y.double())
        elif kind == "summed squares":
            loss = nn.MSELoss(reduction="sum")
        elif kind == "column":  # broadcasts: to be refused
            y, loss = x[:, 0], nn.MSELoss()
    else:
        weight = torch.tensor([5.0, 1.0, 0.5], dtype=torch.float64)
        kind = draw.choice(["plain", "weights", "ignored", "own", "smooth", "summed", "regression"])
        y = torch.where(torch.arange(ROWS) % 4 == 0, -100, classes) if kind == "ignored" else classes
        loss = {
            "weights": nn.CrossEntropyLoss(weight=weight),
            "own": lambda o, y: F.cross_entropy(o, y, weight=weight),
            "smooth": nn.CrossEntropyLoss(label_smoothing=0.1),
            "summed": nn.CrossEntropyLoss(reduction="sum"),
        }.get(kind)
        y = x[:, :3] if kind == "regression" else y
    rate = 0.002 if "sum" in kind else 0.05
    how = draw.choice(["sgd", "momentum", "decay", "adam", "adamw", "groups", "named", "rmsprop", "adagrad", "nadam"])
    given: dict[str, Any] = {"named": _by_name(rate)} if how == "named" else {"optimizer": _optimizers(rate)[how]}
    if draw.random() < 0.3:
        given["clip"] = draw.choice([0.05, 1.0])
    if draw.random() < 0.3:
        given["scheduler"] = _warming
    batch = draw.choice([3, 7, 10, 16, 24, 48, 64])
    return Task(model=lambda: Drawn(number), data=(x, y), loss=loss, name=f"{number}: {kind}, {how}", **given), batch


def _optimizers(rate: float) -> dict[str, Any]:
    def groups(parameters: Any) -> torch.optim.Optimizer:
        wide, flat = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() < 2]
        pairs = [{"params": wide, "weight_decay": 0.2}, {"params": flat, "weight_decay": 0.0}]
        return torch.optim.AdamW([pair for pair in pairs if pair["params"]], lr=rate / 5)

    return {
        "sgd": lambda p: torch.optim.SGD(p, lr=rate),
        "momentum": lambda p: torch.optim.SGD(p, lr=rate, momentum=0.9, nesterov=True),
        "decay": lambda p: torch.optim.SGD(p, lr=rate, momentum=0.9, weight_decay=0.1),
        "adam": lambda p: torch.optim.Adam(p, lr=rate / 5, eps=1e-3),
        "adamw": lambda p: torch.optim.AdamW(p, lr=rate / 5, weight_decay=0.1, eps=1e-3),
        "groups": groups,
        "rmsprop": lambda p: torch.optim.RMSprop(p, lr=rate / 20, eps=1e-3),
        "adagrad": lambda p: torch.optim.Adagrad(p, lr=rate / 5, eps=1e-3),
        "nadam": lambda p: torch.optim.NAdam(p, lr=rate / 20, eps=1e-3),
    }


def _by_name(rate: float) -> Any:
    def named(pairs: Any) -> torch.optim.Optimizer:
        pairs = list(pairs)
        biases = {"params": [p for n, p in pairs if n.endswith("bias")], "lr": rate / 2}
        others = {"params": [p for n, p in pairs if not n.endswith("bias")], "weight_decay": 0.05}
        return torch.optim.SGD([group for group in (biases, others) if group["params"]], lr=rate, momentum=0.5)

    return named


def _warming(optimizer: Any, steps: int) -> Any:
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 * (step + 1) / steps))


def plain(task: Task, spec: Baseline) -> nn.Module:
    """The plain loop over the batches of the network as it is."""
    prepared = prepare(task, spec.batch)
    model = prepared.model(spec.seed)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizer: Any = task.named(named) if task.named else task.optimizer([p for _, p in named])
    steps = [rows for epoch in range(spec.epochs) for rows in batches(len(prepared.x), spec.batch, spec.seed, epoch)]
    scheduler = task.scheduler(optimizer, len(steps)) if task.scheduler else None
    for rows in steps:
        optimizer.zero_grad()
        prepared.loss_function(model(prepared.x[rows]), prepared.y[rows]).backward()
        if task.clip:
            torch.nn.utils.clip_grad_norm_([p for _, p in named], task.clip)
        optimizer.step()
        if scheduler:
            scheduler.step()
    return model


class Trials:
    """All that were tried on these ranks, and what came of each."""

    def __init__(self, comm: Any) -> None:
        self.comm, self.found, self.failures = comm, Counter[str](), 0

    def attempt(self, label: str, train: Callable[[], float | None]) -> None:
        """`train()` gives a difference, or None where none is claimed."""
        try:
            gap = train()
            verdict = "ran" if gap is None else "equal" if gap < TOLERANCE else f"DIFFERS by {gap:.2g}"
        except InputError as error:
            verdict = "refused" if "\n" not in str(error) else "RAW"
        except Exception:  # noqa: BLE001 - whatever it is, it is to be told of
            verdict = "RAW " + traceback.format_exc(limit=-2)
        word = verdict.split()[0]
        self.found[f"{label.split('·')[0].strip()}: {word}"] += 1
        if word in ("DIFFERS", "RAW"):
            self.failures += 1
            if self.comm.Get_rank() == 0:
                print(f"{label}: {verdict}", flush=True)

    def one(self, number: int) -> None:
        """A task, in every way that these ranks can take."""
        task, batch = draw_task(number)
        notes: list[str] = []
        context = Context(self.comm, lambda *events: notes.extend(map(str, events)), lambda: False)
        draw, size = random.Random(number + 2), self.comm.Get_size()
        way, split, parts = draw.choice(WAYS), draw.choice(["replicas", "neurons"]), draw.choice([1, 2, 4])
        spec = Sharded(workers=size, aggregate=way, epochs=EPOCHS, batch=batch)
        alone = Baseline(epochs=EPOCHS, batch=batch)
        of = Subnets(subnets=parts, split=split, epochs=EPOCHS, batch=batch)

        def sharded() -> float:
            result = train_sharded(context, task, spec)
            gap = distance(result.network, train_alone(task, spec, size)) if result else 0.0
            assert not any("ranks hold different" in note for note in notes), notes
            assert not any("differs from one process" in note for note in notes), notes
            return self.comm.bcast(gap, root=0)

        def subnets() -> float | None:
            result = train_subnets(context, task, of)
            return distance(result.subnets[0], plain(task, alone)) if (split, parts) == ("neurons", 1) else None

        self.attempt(f"sharded · {way} · {task.name} · batch {batch}", sharded)
        if size == 1:
            kept = f"{task.name} · batch {batch}"
            self.attempt(
                f"baseline · {kept}",
                lambda: distance(train_baseline(context, task, alone).network, plain(task, alone)),
            )
            self.attempt(f"subnets · {parts} {split} · {kept}", subnets)


def main(count: int = 200, first: int = 0) -> int:
    """The number of failures."""
    from mpi4py import MPI

    torch.set_num_threads(1)
    trials = Trials(MPI.COMM_WORLD)
    for number in range(first, first + count):
        trials.one(number)
    if trials.comm.Get_rank() == 0:
        ranks = trials.comm.Get_size()
        print(f"{ranks} ranks, {count} networks from {first}:", dict(sorted(trials.found.items())))
    return trials.failures


if __name__ == "__main__":
    sys.exit(bool(main(*map(int, sys.argv[1:]))))
