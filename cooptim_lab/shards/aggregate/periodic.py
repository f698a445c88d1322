"""Ways in which every rank takes steps of its own, and all meet every so many of them: less traffic, other results."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...comm.timeline import Timeline
from .base import Aggregator, Loss, Outcome, Settings
from .replica import CONTROL, Replica


class Local(Aggregator):
    """Local SGD: `sync_every` steps by itself, then the mean of all ranks' weights, each by the rows it has seen.

    McMahan et al., "Communication-efficient learning of deep networks from decentralized data", AISTATS 2017; Stich,
    "Local SGD converges fast and communicates little", ICLR 2019. With plain SGD and a meeting after every step it is
    synchronous SGD. What the optimizer remembers stays on each rank.
    """

    is_replicated = False

    def __init__(self, comm: Any, replica: Replica, settings: Settings, timeline: Timeline) -> None:
        super().__init__(comm, replica, settings, timeline)
        self._losses: list[float] = []
        self._rows = 0.0  # this rank's share of the batches since the last meeting, added up
        self._bad: float | None = None

    def step(self, loss: Loss | None, weight: float, stop: bool) -> Outcome:
        value = self.replica.backward(loss, 1.0)
        if loss is not None:
            self.replica.step()
        else:
            self.replica.follow()
        if not math.isfinite(value):
            self._bad = value
        self._losses.append(value * weight)
        self._rows += weight
        self.timeline.step()
        if len(self._losses) < self.settings.sync_every:
            return Outcome(())
        return self._meet(stop)

    def _meet(self, stop: bool) -> Outcome:
        self._sign(0.0 if self._bad is None else self._bad, 0.0, stop)
        total = self._average()
        self.adopt(total)
        _, stop, shares = self._read(total[-CONTROL:].numpy())
        return Outcome(self._share_losses(), stop, shares)

    def _average(self) -> Tensor:
        """The mean of all weights, and behind it the sum of what is behind the gradients."""
        replica = self.replica
        total = replica.weights.detach() * (self._rows / max(1, len(self._losses)))
        total[-CONTROL:] = replica.gradient[-CONTROL:]
        self.sum_up(total.numpy())
        return total

    def adopt(self, mean: Tensor) -> None:
        """Go on from the mean of all weights."""
        self.replica.weights[: self.replica.count] = mean[: self.replica.count]

    def _share_losses(self) -> Sequence[float]:
        losses = np.array(self._losses)
        self.sum_up(losses)
        self._losses, self._rows = [], 0.0
        return losses.tolist()

    @contextmanager
    def whole(self) -> Iterator[None]:
        if not self._losses:  # all have just met
            yield
            return
        own = self.replica.weights.clone()
        self._sign(0.0, 0.0, False)
        self.replica.weights[: self.replica.count] = self._average()[: self.replica.count]
        try:
            yield
        finally:
            self.replica.weights.copy_(own)

    def settle(self) -> Sequence[float]:
        return self._meet(False).losses if self._losses else ()

    def can_save(self) -> bool:
        return not self._losses  # all have just met


class DiLoCo(Local):
    """Local steps, and at every meeting a step of an outer optimizer on how far the mean has moved.

    SGD with Nesterov's momentum on the difference of the weights at the last meeting and the mean: Douillard et al.,
    "DiLoCo: Distributed low-communication training of language models", 2023. With outer_lr 1 and no momentum it is
    local SGD.
    """

    def __init__(self, comm: Any, replica: Replica, settings: Settings, timeline: Timeline) -> None:
        super().__init__(comm, replica, settings, timeline)
        self._anchor = replica.weights[: replica.count].detach().clone()
        self._momentum = torch.zeros_like(self._anchor)

    def adopt(self, mean: Tensor) -> None:
        moved = self._anchor - mean[: self.replica.count]
        self._momentum.mul_(self.settings.outer_momentum).add_(moved)
        moved.add_(self._momentum, alpha=self.settings.outer_momentum)
        self._anchor.sub_(moved, alpha=self.settings.outer_lr)
        self.replica.weights[: self.replica.count] = self._anchor

    def state(self) -> dict[str, Any]:
        return {"anchor": self._anchor, "momentum": self._momentum}

    def load(self, state: Mapping[str, Any]) -> None:
        self._anchor.copy_(state["anchor"])
        self._momentum.copy_(state["momentum"])
