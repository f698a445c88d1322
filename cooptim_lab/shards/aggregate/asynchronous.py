"""A central server that nobody waits for: every gradient is a step as soon as it comes, on weights that have moved on.

Rank 0 is the server and trains its own shard too: it serves the others between its steps and while it waits. A step of
one rank's gradient is as long as its share of the batch, so the learning rate means what it means elsewhere. How stale
a gradient is (how many steps the server has made since its weights were sent) is bounded: no rank is ever more than
`staleness` steps ahead of the slowest. Ho et al., "More effective distributed ML via a stale synchronous parallel
parameter server", NeurIPS 2013.

With a bound of 1 or more a rank computes its next gradient while the answer to the last is on its way.
"""

from __future__ import annotations

import math
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...comm.timeline import Timeline
from ...comm.waiting import complete
from ...errors import InputError
from .base import Aggregator, Loss, Outcome, Settings
from .replica import CONTROL, Replica

GRADIENT, WEIGHTS = 1, 2
"""Tags of messages."""
WEIGHT, VALUE, WISH, LAG = range(4)
"""Behind a gradient: the rank's share of the batch, its loss, whether it wishes to stop, answers it was short of."""
LEFT, LOSS_NOW = range(2)
"""Behind weights: steps until the last of all, counted from the one that is answered (0: not known); the loss of late.
All are small numbers: the buffer may be of float32."""
ROUNDING = 1e-3
"""Of a long sum of shares, which travel in float32: whole batches make a whole number."""
PAUSE = 2e-5
"""Seconds of sleep between looks at what has come."""


class Async(Aggregator):
    """See the module."""

    tells_alone = True

    def __init__(self, comm: Any, replica: Replica, settings: Settings, timeline: Timeline) -> None:
        super().__init__(comm, replica, settings, timeline)
        self.done = 0  # steps of this rank
        self.last = 0  # of all, when they are to stop; 0: not known
        self._loss = 0.0
        self._ahead = min(settings.staleness, 1)  # answers that may be on their way
        self._answers = 0  # that this rank has got
        width = len(replica.gradient)
        self._out = np.zeros(width, replica.gradient.numpy().dtype)
        self._sending: Any = None
        self._into = np.zeros_like(self._out)
        self._receiving: Any = None
        if self.rank == 0:
            self._clock = [0] * self.size
            self._losses = [math.nan] * self.size
            self._shares = [0.0] * self.size
            self._given = [0] * self.size  # answers
            self.version = 0  # steps that the server has made
            self._part = 0.0  # of a batch, that has become steps since the rate has followed the last
            self.stale_sum, self.stale_most = 0, 0
            self._versions = [deque([0], maxlen=4) for _ in range(self.size)]  # of the last answers to each
            self._owed: list[int] = []
            self._from = {r: np.zeros_like(self._out) for r in range(1, self.size)}
            self._to = {r: np.zeros_like(self._out) for r in range(1, self.size)}
            self._sends: dict[int, Any] = {}
            self._receives = {r: comm.Irecv(self._from[r], source=r, tag=GRADIENT) for r in range(1, self.size)}
        elif self.size > 1:
            self._receiving = comm.Irecv(self._into, source=0, tag=WEIGHTS)

    # One step.

    def step(self, loss: Loss | None, weight: float, stop: bool) -> Outcome:
        lag = self.done - self._answers
        value = self.replica.backward(loss, 1.0)
        if not math.isfinite(value):
            raise InputError(
                f"the loss is not finite on rank {self.rank} ({socket.gethostname()}): look for NaN or outliers in its "
                "shard, or lower the learning rate"
            )
        self.done += 1
        if self.rank == 0:
            self._apply(self.replica.gradient, 0, weight, value, 0, stop)
            self._serve()
            self._wait(lambda: min(self._clock) >= self.done - self.settings.staleness)
        else:
            self._send(weight, value, stop, lag)
            self._wait(lambda: self._answers >= self.done - self._ahead)
        self.timeline.step()
        return Outcome((self._loss,), bool(self.last) and self.done >= self.last)

    def settle(self) -> Sequence[float]:
        if self.rank == 0:
            self._wait(lambda: min(self._clock) >= self.done and not self._owed)
            for request in self._sends.values():
                self._wait(request.Test)
            self._sends.clear()
        else:
            self._wait(lambda: self._answers >= self.done and self._is_sent())
        weights = self.replica.weights.numpy()
        complete(self.comm.Ibcast(weights, root=0), weights)
        return ()

    def whole(self) -> Any:
        self.settle()
        return super().whole()

    def can_save(self) -> bool:
        self.settle()
        return True

    @property
    def staleness(self) -> tuple[float, int] | None:
        return (self.stale_sum / max(1, self.version), self.stale_most) if self.rank == 0 else None

    def close(self) -> None:
        for request in [self._receiving] if self.rank else list(self._receives.values()):
            if request is not None:  # on one rank alone there is nobody to hear of
                request.Cancel()
                request.Wait()

    def _wait(self, condition: Callable[[], bool]) -> None:
        """Do what there is to be done for others until a condition holds."""
        while not condition():
            began = time.perf_counter()
            if not (self._serve() if self.rank == 0 else self._take()):
                time.sleep(PAUSE)
                self.timeline.spent(waiting=time.perf_counter() - began)

    # A rank that is not the server.

    def _send(self, weight: float, value: float, stop: bool, lag: int) -> None:
        self._wait(self._is_sent)
        began = time.perf_counter()
        self._out[:] = self.replica.gradient.numpy()
        self._out[-CONTROL:][[WEIGHT, VALUE, WISH, LAG]] = weight, value, stop, lag
        self._sending = self.comm.Isend(self._out, dest=0, tag=GRADIENT)
        self._take()
        self.timeline.spent(communication=time.perf_counter() - began, sent=self._out.nbytes)

    def _is_sent(self) -> bool:
        return self._sending is None or self._sending.Test()

    def _take(self) -> bool:
        """Take the newest weights that have come; whether there were any."""
        is_new = False
        while self._receiving.Test():
            is_new = True
            self._answers += 1
            left, loss = self._into[-CONTROL:][[LEFT, LOSS_NOW]].tolist()
            if left:  # once known, it stays: the last answer of all has none left
                self.last = self._answers + int(left)
            self._loss = loss
            self.replica.weights.copy_(torch.from_numpy(self._into))
            self._receiving = self.comm.Irecv(self._into, source=0, tag=WEIGHTS)
        return is_new

    # The server.

    def _serve(self) -> bool:
        """Take what has come, answer whom the bound allows to go on; whether there was anything to do."""
        is_new = False
        for rank, request in self._receives.items():
            if request.Test():
                is_new = True
                message = self._from[rank]
                weight, value, wish, lag = message[-CONTROL:][[WEIGHT, VALUE, WISH, LAG]].tolist()
                self._apply(torch.from_numpy(message), rank, weight, value, int(lag), wish > 0)
                self._receives[rank] = self.comm.Irecv(message, source=rank, tag=GRADIENT)
                self._owed.append(rank)
        slowest = min(self._clock)
        for rank in [r for r in self._owed if slowest >= self._clock[r] - (self.settings.staleness - self._ahead)]:
            if rank in self._sends and not self._sends[rank].Test():
                continue
            is_new = True
            began = time.perf_counter()
            self._owed.remove(rank)
            self._versions[rank].append(self.version)
            answer = self._to[rank]
            answer[:] = self.replica.weights.detach().numpy()
            self._given[rank] += 1
            answer[-CONTROL:][[LEFT, LOSS_NOW]] = max(0, self.last - self._given[rank]), self._loss
            self._sends[rank] = self.comm.Isend(answer, dest=rank, tag=WEIGHTS)
            self.timeline.spent(communication=time.perf_counter() - began, sent=answer.nbytes)
        return is_new

    def _apply(self, gradient: Tensor, rank: int, weight: float, value: float, lag: int, stop: bool) -> None:
        """One rank's gradient becomes a step, as long as its share of the batch."""
        replica = self.replica
        if gradient is not replica.gradient:
            replica.gradient[: replica.count] = gradient[: replica.count]
        if weight:
            rates = [group["lr"] for group in replica.optimizer.param_groups]
            for group, rate in zip(replica.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * weight
            replica.update()
            for group, rate in zip(replica.optimizer.param_groups, rates, strict=True):
                is_changed = bool(group["lr"] != rate * weight)  # by a hook of the optimizer's
                group["lr"] = group["lr"] / weight if is_changed else rate
            self._follow(weight)
            stale = 0 if rank == 0 else self.version - self._began_with(rank, lag)
            self.stale_sum, self.stale_most = self.stale_sum + stale, max(self.stale_most, stale)
            self.version += 1
        self._clock[rank] += 1
        self._losses[rank], self._shares[rank] = value, weight
        known = [(v, w) for v, w in zip(self._losses, self._shares, strict=True) if not math.isnan(v)]
        self._loss = sum(v * w for v, w in known) / max(1e-12, sum(w for _, w in known))
        if stop and not self.last:
            # A step that nobody has begun, and that an answer from now on reaches everybody before.
            self.last = max(self._clock) + self._ahead + 2

    def _follow(self, weight: float) -> None:
        """Let the rate follow the rows that became steps: a whole batch of them is one step of the training."""
        self._part += weight
        if self._part > 1 - ROUNDING:
            self._part -= 1
            self.replica.follow()

    def _began_with(self, rank: int, lag: int) -> int:
        """The version that a rank had when it began the step it has now sent, `lag` answers being on their way then."""
        had = self._clock[rank] - lag
        return self._versions[rank][had - self._given[rank] - 1]
