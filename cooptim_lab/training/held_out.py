"""Scores on rows that nobody trains on, each rank scoring its part."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..comm.objects import allgather, gather
from ..data.rows import Rows, keep
from ..task import Task
from .prepare import Score, check_fit, score

CHUNK = 4096
"""Rows that go through the network together."""
PIECE = 1 << 18
NONE = torch.empty(0, dtype=torch.int64)
MOST_NUMBERS = 1 << 20
"""Outputs that are brought to rank 0 to be scored as one; of more, each rank scores its own, and the mean counts."""


class HeldOut:
    """The held-out rows of a task, a part of them on each rank.

    Parameters
    ----------
    rows
        Of the whole task.
    held
        Numbers of the held-out ones.
    """

    def __init__(self, task: Task, rows: Rows, held: Tensor, comm: Any) -> None:
        self.task, self.comm, self.count = task, comm, len(held)
        size, rank = comm.Get_size(), comm.Get_rank()
        start, end = self.count * rank // size, self.count * (rank + 1) // size
        self.rows = keep(rows, held[start:end])
        self._sample = rows.take(held[:4])

    def check(self, model: nn.Module, mine: Rows) -> None:
        """See that model, loss and labels fit each other (`prepare.check_fit`): those of `mine` and of the held-out."""
        x, y = self._sample
        labels = [distinct(rows) for rows in (mine, self.rows)] if mine.labels(NONE) is not None else [y.flatten()]
        check_fit(self.task, model, x, y, torch.cat(labels))

    def score(self, network: nn.Module) -> Score | None:
        """Loss and metric over all held-out rows, on rank 0. Collective. The mode of the network comes back."""
        training = network.training
        network.eval()
        try:
            parts = [self._chunk(network, start) for start in range(0, len(self.rows), CHUNK)]
        finally:
            network.train(training)
        outputs_per_row = parts[0][0][0].numel() if parts else 0
        numbers = self.count * max(allgather(self.comm, outputs_per_row))
        if self.task.metric is not None or numbers <= MOST_NUMBERS:
            mine = tuple(torch.cat(of) for of in zip(*parts, strict=True)) if parts else None
            every = gather(self.comm, mine)
            if every is None:
                return None
            outputs, y = (torch.cat(of) for of in zip(*[pair for pair in every if pair is not None], strict=True))
            return score(self.task, outputs, y)
        scores = [(len(y), score(self.task, outputs, y)) for outputs, y in parts]
        everyones = gather(self.comm, scores)
        if everyones is None:
            return None
        flat = [pair for scores in everyones for pair in scores]
        loss = sum(n * one.loss for n, one in flat) / self.count
        metric = sum(n * one.metric for n, one in flat) / self.count
        return Score(loss, metric, flat[0][1].metric_name)

    def _chunk(self, network: nn.Module, start: int) -> tuple[Tensor, Tensor]:
        x, y = self.rows.take(torch.arange(start, min(start + CHUNK, len(self.rows))))
        with torch.no_grad():
            return network(x), y


def distinct(rows: Rows) -> Tensor:
    """Every label of some rows once; in pieces, since all of them at once would take memory."""
    pieces = [rows.labels(piece) for piece in torch.arange(len(rows)).split(PIECE)]
    known = [np.unique(piece) for piece in pieces if piece is not None]
    return torch.from_numpy(np.unique(np.concatenate([np.empty(0, np.int64), *known])).astype(np.int64))
