"""One plain process, written out: what trainings over ranks are held against. See tests/mpi/prog_one_process.py."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cooptim_lab import Task
from cooptim_lab.data.holding import hold_out
from cooptim_lab.preparing.building import build_model
from cooptim_lab.shards.deal import deal, shard_batches
from cooptim_lab.training.spec import Sharded


def batches_over(spec: Sharded, rows: Tensor, size: int) -> list[Tensor]:
    """For every step of a training over `size` ranks, the rows that they take together."""
    deals = [deal(rows, size, rank, spec.shards, spec.seed) for rank in range(size)]
    steps = []
    for epoch in range(spec.epochs):
        parts = [shard_batches(deals[0].sizes, rank, spec.batch, spec.seed, epoch) for rank in range(size)]
        for step in zip(*parts, strict=True):
            steps.append(torch.cat([deals[rank].rows[part.rows] for rank, part in enumerate(step)]).long())
    return steps


def train_alone(task: Task, spec: Sharded, size: int) -> nn.Module:
    """The network after forward, backward, clip, step, schedule of every batch, in one process."""
    x, y = (torch.as_tensor(part) for part in task.data)
    rows, _ = hold_out(len(x), task.held_out, task.seed)
    model = build_model(task.model, spec.seed)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizer: Any = task.named(named) if task.named else task.optimizer([p for _, p in named])
    steps = batches_over(spec, rows, size)
    scheduler = task.scheduler(optimizer, len(steps)) if task.scheduler else None
    loss = task.loss or (F.mse_loss if y.is_floating_point() else F.cross_entropy)
    for chosen in steps:
        optimizer.zero_grad()
        loss(model(x[chosen].clone()), y[chosen]).backward()
        if task.clip:
            torch.nn.utils.clip_grad_norm_([p for _, p in named], task.clip)
        optimizer.step()
        if scheduler:
            scheduler.step()
    return model


def distance(one: nn.Module, other: nn.Module) -> float:
    """The largest difference of any number of their states."""
    mine, theirs = ({n: v.detach().double() for n, v in m.state_dict().items() if v.dim()} for m in (one, other))
    return max(float((mine[name] - theirs[name]).abs().max()) for name in mine)
