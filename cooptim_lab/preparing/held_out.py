"""Scores on rows that nobody trains on, each rank scoring its part."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..comm.objects import allgather, gather
from ..data.rows import Rows, keep
from ..task import Task
from .building import on_trial
from .examination.fit import see_outputs
from .modes import evaluating
from .reduction import MEAN, SUM, Reduction
from .scoring import NOTHING, Meaning, Score, join_scores, score

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

    Attributes
    ----------
    meaning, reduction
        How outputs are read, and what the loss divides by: to be set before anything is scored.
    is_scored_together
        Whether outputs depend on the other rows, so that rank 0 scores all of them in one pass, as one process does. To
        be set before anything is scored, on all ranks alike.
    """

    def __init__(self, task: Task, rows: Rows, held: Tensor, comm: Any) -> None:
        self.task, self.comm, self.count = task, comm, len(held)
        self.meaning, self.reduction = Meaning(NOTHING), Reduction(MEAN)
        self.is_scored_together = False
        self._whole: tuple[Tensor, ...] | None = None
        size, rank = comm.Get_size(), comm.Get_rank()
        start, end = self.count * rank // size, self.count * (rank + 1) // size
        self.rows = keep(rows, held[start:end])
        self._sample = rows.take(held[:4])

    def check(self, model: nn.Module) -> None:
        """See that a network takes held-out rows (`examination.fit`)."""
        see_outputs(model, self._sample[0])

    def labels(self, mine: Rows) -> Tensor:
        """The labels that there are, each once: of some rows that are trained on, and of these."""
        if self._sample[1].is_floating_point():
            return self._sample[1].flatten().unique()
        return torch.cat([distinct(rows) for rows in (mine, self.rows)]).unique()

    def score(self, network: nn.Module) -> Score | None:
        """Loss and metric over all held-out rows, on rank 0. Collective. The modes of the network come back."""
        if self.is_scored_together:
            return self._score_together(network)
        with evaluating(network):
            chunks = torch.arange(len(self.rows)).tensor_split(-(-len(self.rows) // CHUNK)) if len(self.rows) else ()
            parts = [self._chunk(network, rows) for rows in chunks]
        outputs_per_row = parts[0][0][0].numel() if parts else 0
        numbers = self.count * max(allgather(self.comm, outputs_per_row))
        if self.task.metric is not None or numbers <= MOST_NUMBERS:
            mine = tuple(torch.cat(of) for of in zip(*parts, strict=True)) if parts else None
            every = gather(self.comm, mine)
            if every is None:
                return None
            outputs, y = (torch.cat(of) for of in zip(*[pair for pair in every if pair is not None], strict=True))
            return score(on_trial(self.task, ("loss",)), self.meaning, outputs, y)
        everyones = gather(self.comm, [self._scored(outputs, y) for outputs, y in parts])
        if everyones is None:
            return None
        return join_scores([each for scores in everyones for each in scores], is_sum=self.reduction.kind == SUM)

    def _score_together(self, network: nn.Module) -> Score | None:
        if self._whole is None:
            mine = self.rows.take(torch.arange(len(self.rows))) if len(self.rows) else None
            every = gather(self.comm, mine) or []
            self._whole = tuple(torch.cat(of) for of in zip(*[pair for pair in every if pair is not None], strict=True))
        if not self._whole:
            return None
        x, y = self._whole
        with evaluating(network), torch.no_grad():
            return score(
                on_trial(self.task, ("loss",)), self.meaning, network(x.clone()), y
            )  # a network may work in place

    def _scored(self, outputs: Tensor, y: Tensor) -> tuple[float, float, Score]:
        """What the loss of a part counts, what its metric counts, and the score."""
        counted = self.meaning.right(outputs, y)[1] if self.meaning.kind != NOTHING else len(y)
        return self.reduction.weight(y), counted, score(on_trial(self.task, ("loss",)), self.meaning, outputs, y)

    def _chunk(self, network: nn.Module, rows: Tensor) -> tuple[Tensor, Tensor]:
        x, y = self.rows.take(rows)
        with torch.no_grad():
            return network(x), y


def distinct(rows: Rows) -> Tensor:
    """Every label of some rows once; in pieces, since all of them at once would take memory.

    Labels of more than one number a row (tokens) are taken with their rows: one that is missed would not be counted.
    """
    if rows.labels(NONE) is None:
        taken = [rows.take(piece)[1].unique() for piece in torch.arange(len(rows)).split(CHUNK)]
        return torch.cat([NONE, *taken]).unique()
    pieces = [rows.labels(piece) for piece in torch.arange(len(rows)).split(PIECE)]
    known = [np.unique(piece) for piece in pieces if piece is not None]
    return torch.from_numpy(np.unique(np.concatenate([np.empty(0, np.int64), *known])).astype(np.int64))
