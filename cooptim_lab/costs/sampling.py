"""Programs for ranks that take single steps of a task, one by one: of parts of a batch in several sizes, and of parts
of the network. What `scaling.here` puts together to machines that are not here.

How far single steps are apart counts as much as their mean: a step that all make together ends with its slowest.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..comm.context import Context
from ..data.holding import hold_out
from ..data.rows import open_rows
from ..errors import InputError
from ..preparing.building import build_model, on_trial
from ..preparing.prepare import Prepared, prepare
from ..preparing.scoring import loss_of
from ..runs.events import Progress
from ..shards.aggregate import Replica
from ..subnets.split import divide
from ..subnets.trainer import Trainer
from ..subnets.trial import make_trial
from ..task import Task
from .calibration import MOST_STEPS, meet

TURN_SECONDS = 0.05
"""Steps of each kind in a round: as many as fit, three at the least; the first wakes what has slept."""
LEAST_STEPS = 3
KEPT = 200
"""Of all single steps' relative times, so many quantiles are kept."""


def sample_alone(context: Context, step: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Seconds of a step of the network as it is: median over the rounds, on one rank."""
    return {"alone": statistics.median(_in_turns(context, {"step": step}, repeats).means["step"])}


def sample_parts(
    context: Context, task: Task, batch: int, counts: Sequence[int], subnets: Sequence[int], repeats: int, seed: int
) -> dict[str, Any] | None:
    """Steps on the parts that each of so many workers would have, and of one of so many sub-networks. On rank 0.

    All ranks compute at the same time, as workers would. Numbers of sub-networks that the network cannot be cut into
    are left out, with what stands in the way as `uncut`.
    """
    steps, uncut = _Steps(task, batch, seed), ""
    kinds: dict[str, Callable[[], Any]] = {}
    for workers in counts:
        kinds.setdefault(f"rows {max(1, batch // workers)}", steps.gradient(workers, context.rank, context.size))
    kinds["update"] = steps.replica.step
    for each in subnets:
        try:
            kinds[f"subnets {each}"] = steps.of_subnet(each, context.rank % each)
        except InputError as error:
            uncut = uncut or f"{each} sub-networks: {error}"
    took = _in_turns(context, kinds, repeats)
    every = context.comm.allgather((took.means, took.apart))
    if not context.is_root:
        return None
    means = {
        name: [statistics.fmean(one) for one in zip(*(of[name] for of, _ in every), strict=True)] for name in kinds
    }
    apart = np.concatenate([of for _, of in every])
    spread = statistics.median(statistics.pstdev(one) / statistics.fmean(one) for one in means.values())

    def named(kind: str) -> dict[int, float]:
        return {int(n.split()[1]): statistics.median(one) for n, one in means.items() if n.startswith(kind)}

    return {
        "size": steps.replica.weights.nbytes, "gradients": named("rows"), "subnets": named("subnets"),
        "update": statistics.median(means["update"]), "spread": spread, "uncut": uncut,
        "apart": np.quantile(apart, (np.arange(KEPT) + 0.5) / KEPT).tolist(),
    }  # fmt: skip


class _Steps:
    """What a rank steps: a replica of the task's network, and rows."""

    def __init__(self, task: Task, batch: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.task, self.seed = on_trial(task), seed
        rows = open_rows(task, build_model(task.model, seed))
        trained, _ = hold_out(len(rows), task.held_out, task.seed)
        if batch > len(trained):
            raise InputError(f"batch = {batch}: there are {len(trained)} rows to train on; give that or less")
        self.drawn: Tensor = trained[
            torch.randperm(len(trained), generator=torch.Generator().manual_seed(seed))[:batch]
        ]
        self.rows = rows
        self._prepared: Prepared | None = None
        self.replica = Replica(build_model(task.model, seed), self.task, MOST_STEPS, is_trial=True)
        self.loss = loss_of(task, rows.take(self.drawn[:2])[1])

    def gradient(self, workers: int, rank: int, ranks: int) -> Callable[[], Any]:
        """Forward and backward on one worker's part."""
        return self._backward(self.replica, self._part(workers, rank * max(1, workers // ranks)), 1 / workers)

    def of_subnet(self, subnets: int, which: int) -> Callable[[], Any]:
        """A step of one of N sub-networks, on the whole batch, by what trains them."""
        if self._prepared is None:
            self._prepared = prepare(self.task, len(self.drawn))
        prepared, rows = self._prepared, torch.arange(len(self.drawn))
        (subnet,) = divide(self.task, prepared.x[:2], subnets, split="replicas", seed=self.seed).make([which])
        trainer = Trainer(prepared.for_trial(), [subnet], "separate", make_trial(prepared, [rows]))
        return lambda: trainer.step(rows)

    def _part(self, workers: int, which: int) -> Tensor:
        """Which rows one worker would have."""
        rows = max(1, len(self.drawn) // workers)
        first = which % workers * rows
        return self.drawn[first : first + rows]

    def _backward(self, replica: Replica, part: Tensor, weight: float) -> Callable[[], Any]:
        """Rows are taken anew for every step, as in a training."""

        def loss() -> Tensor:
            x, y = self.rows.take(part)
            return self.loss(replica.model(x), y)

        return lambda: replica.backward(loss, weight)


class _Took:
    """Of each kind the mean of a step, round by round; and of all single steps how many times their round's median."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self.means: dict[str, list[float]] = {name: [] for name in kinds}
        self.apart = np.empty(0)

    def add(self, name: str, steps: Sequence[float]) -> None:
        self.means[name].append(statistics.fmean(steps))
        self.apart = np.concatenate([self.apart, np.array(steps) / statistics.median(steps)])


def _in_turns(context: Context, kinds: dict[str, Callable[[], Any]], repeats: int) -> _Took:
    """Every kind has its turn in every round, all ranks beginning it together."""
    took = _Took(list(kinds))
    for done in range(repeats):
        for name, action in kinds.items():
            meet(context.comm)
            action()
            took.add(name, _turn(action))
        if context.is_root:
            context.report(Progress(rank=0, done=done + 1, total=repeats))
    return took


def _turn(action: Callable[[], Any]) -> list[float]:
    steps: list[float] = []
    while len(steps) < LEAST_STEPS or (sum(steps) < TURN_SECONDS and len(steps) < MOST_STEPS):
        began = time.perf_counter()
        action()
        steps.append(time.perf_counter() - began)
    return steps
