"""Ways in which every step of every rank is a step of all, on the gradient of the whole batch.

A step's loss and the wish to stop travel in the same buffer as the gradient, so the ranks always agree on both and no
rank can leave another waiting.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...comm.timeline import ALL, OTHERS, ROOT, Timeline
from ...comm.waiting import complete
from ...errors import InputError
from .base import Aggregator, Loss, Outcome, Settings
from .replica import CONTROL, Replica

PART = 3
"""Tag of what a rank sends to the server."""


class Synchronous(Aggregator):
    """Every rank's gradient in, one step of the model on every rank out."""

    def step(self, loss: Loss | None, weight: float, stop: bool) -> Outcome:
        self._sign(self.replica.backward(loss, weight), weight, stop)
        self.exchange()
        self.timeline.step()
        known, stop, shares = self._read(self.heard)
        return Outcome((known,), stop, shares)

    @property
    def heard(self) -> np.ndarray:
        """After an exchange, the sum of what all ranks had to say, (CONTROL,)."""
        return self.replica.control

    def exchange(self) -> None:
        """Turn every rank's gradient, and what is behind it, into the sum of all, and that into a step everywhere."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        compression = self.settings.compression
        return {} if compression is None else {"compression": compression.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        if self.settings.compression is not None:
            self.settings.compression.load(state["compression"])

    def _add_control(self) -> None:
        """The sum of what is behind the gradient, where that travels by itself; so which parameters are touched."""
        self.sum_up(self.replica.gradient[self.replica.count :].numpy())
        self.replica.hear()


class AllReduce(Synchronous):
    """Every rank gets the sum (a ring or a tree: MPI's choice) and takes the same step.

    The gradient travels in `buckets`: each as soon as the backward pass has filled it, while that goes on with the
    layers before (Li et al., "PyTorch Distributed", VLDB 2020). One bucket is one call at the end.
    """

    buckets = 1
    repeats, is_trial = False, False
    """Whether a parameter got its gradient in several parts in one step (a re-entrant checkpoint of a layer that is
    used twice, say): then a bucket may go before it is whole, and one call at the end is right."""

    def use_buckets(self, buckets: int) -> None:
        """Cut the gradient into so many parts of about the same size, at the borders of parameters."""
        self.buckets = max(1, min(buckets, len(self.replica.parameters)))
        for handle in getattr(self, "_handles", []):
            handle.remove()
        self._handles: list[Any] = []
        if self.buckets == 1:
            return
        sizes = [p.numel() for p in self.replica.parameters]
        ends = np.cumsum(sizes)
        of = np.minimum((ends - 1) * self.buckets // ends[-1], self.buckets - 1).tolist()
        self.buckets = len(set(of))  # fewer, where one parameter is most of them all
        self._of_bucket = [[i for i, b in enumerate(of) if b == bucket] for bucket in sorted(set(of))]
        self._missing: list[int] = []
        self.repeats = False
        for bucket, places in enumerate(self._of_bucket):
            for place in places:
                hook = self._hook(bucket)
                self._handles.append(self.replica.parameters[place].register_post_accumulate_grad_hook(hook))
        starts = np.concatenate([[0], ends]).tolist()
        self._ranges = [(starts[places[0]], starts[places[-1] + 1]) for places in self._of_bucket]
        self._requests: dict[int, Any] = {}

    def settle(self) -> Sequence[float]:
        for handle in getattr(self, "_handles", []):  # a network is handed over with its hooks: these are not its own
            handle.remove()
        return super().settle()

    def _hook(self, bucket: int) -> Any:
        def arrived(parameter: Tensor) -> None:
            self._missing[bucket] -= 1
            self.repeats |= self._missing[bucket] < 0
            # In one order on all ranks, whatever the order in which a graph's gradients come.
            while self._next >= 0 and self._missing[self._next] == 0:
                self._send(self._next)
                self._next -= 1
            for request in self._requests.values():
                request.Test()  # lets MPI work on what is on its way

        return arrived

    def _send(self, bucket: int) -> None:
        from mpi4py import MPI

        start, end = self._ranges[bucket]
        part = self.replica.gradient[start:end].numpy()
        self._requests[bucket] = self.comm.Iallreduce(MPI.IN_PLACE, part)

    def step(self, loss: Loss | None, weight: float, stop: bool) -> Outcome:
        if self.buckets > 1:
            self._missing, self._requests = [len(places) for places in self._of_bucket], {}
            self._next = len(self._of_bucket) - 1  # the last layers' gradients come first
        return super().step(loss, weight, stop)

    def exchange(self) -> None:
        replica, compression = self.replica, self.settings.compression
        if self.repeats and not self.is_trial:
            raise InputError(
                "a parameter gets its gradient in several parts in a step, which did not happen while the ranks warmed "
                "up: aggregate by server or ordered"
            )
        if compression is not None:
            gradient = replica.gradient[: replica.count]
            replica.tell()
            began = time.perf_counter()
            self.timeline.called(began, ALL, compression.exchange(self.comm, gradient))
            self._add_control()
        elif self.buckets > 1:
            began = time.perf_counter()
            for bucket in range(self._next, -1, -1):  # what no gradient came for: parameters that were not used
                self._send(bucket)
            for request in self._requests.values():
                complete(request, replica.gradient)
            self.timeline.called(began, ALL, replica.count * replica.gradient.element_size())
            self._add_control()
        else:
            self.sum_up(replica.gradient.numpy())
        replica.step()


class Ordered(Synchronous):
    """Every rank gets every rank's gradient and adds them in the order of ranks: the same bits on any machine.

    M times the traffic of a sum, for a training that can be repeated, and resumed, bit for bit. Ranks compute with one
    thread each.
    """

    def __init__(self, comm: Any, replica: Replica, settings: Settings, timeline: Timeline) -> None:
        super().__init__(comm, replica, settings, timeline)
        self.gathered = replica.gradient.new_empty(self.size, len(replica.gradient))

    def exchange(self) -> None:
        mine, everyones = self.replica.gradient.numpy(), self.gathered.numpy()
        began = time.perf_counter()
        complete(self.comm.Iallgather(mine, everyones), mine, everyones)
        self.timeline.called(began, ALL, mine.nbytes * (self.size - 1))
        add_in_order(list(self.gathered), self.replica.gradient)
        self.replica.step()


def add_in_order(parts: Sequence[Tensor], out: Tensor) -> None:
    """The sum of some tensors of one shape, from the first to the last."""
    if len(parts) == 1:
        out.copy_(parts[0])
        return
    torch.add(parts[0], parts[1], out=out)
    for part in parts[2:]:
        out.add_(part)


class Server(Synchronous):
    """Rank 0 is the central server: it gathers every rank's gradient, takes the step alone, sends the weights back.

    The optimizer's state lives on the server only. Rank 0 trains its own shard too.
    """

    def __init__(self, comm: Any, replica: Replica, settings: Settings, timeline: Timeline) -> None:
        super().__init__(comm, replica, settings, timeline)
        width = len(replica.gradient)
        self.gathered = replica.gradient.new_empty(self.size, width) if self.rank == 0 else None
        self._parts = [] if self.gathered is None else list(self.gathered)

    def exchange(self) -> None:
        replica, compression = self.replica, self.settings.compression
        if compression is None:
            self._collect(replica.gradient.numpy(), None if self.gathered is None else self.gathered.numpy())
            if self.gathered is not None:
                add_in_order(self._parts, replica.gradient)  # torch.sum would begin at 0.0, which is not UNTOUCHED
        else:
            self._gather_compressed(compression)
            self._add_control()
        if self.rank == 0:
            replica.step()
            replica.weights[-CONTROL:] = replica.gradient[-CONTROL:]
        weights = replica.weights.numpy()
        began = time.perf_counter()
        complete(self.comm.Ibcast(weights, root=0), weights)
        self.timeline.called(began, OTHERS, 0 if self.rank else weights.nbytes * (self.size - 1))
        replica.gradient[-CONTROL:] = replica.weights[-CONTROL:]

    def _collect(self, mine: np.ndarray, every: np.ndarray | None) -> None:
        """An array of every rank on rank 0, each straight to it.

        MPI's own gather relays them up a tree: where ranks take turns on the CPUs, each relay waits for its turn
        (measured: 4 ranks on 2 cores, 22 ms a step against 10).
        """
        began = time.perf_counter()
        if every is None:
            complete(self.comm.Isend(mine, dest=0, tag=PART), mine)
        else:
            requests = [self.comm.Irecv(every[rank], source=rank, tag=PART) for rank in range(1, self.size)]
            every[0] = mine
            for request in requests:
                complete(request, every)
        self.timeline.called(began, ROOT, mine.nbytes if self.rank else 0)

    def _gather_compressed(self, compression: Any) -> None:
        gradient = self.replica.gradient[: self.replica.count]
        self.replica.tell()
        payload = compression.encode(gradient)
        receive = np.empty((self.size, len(payload)), np.uint8) if self.rank == 0 else None
        self._collect(payload, receive)
        if receive is not None:
            gradient.zero_()
            for part in receive:
                compression.add(part, gradient)


class Own(Synchronous):
    """A user's way: an object with one method, `aggregate(comm, gradient)`.

    `gradient` is a flat numpy array: this rank's part of the gradient, weighted by its share of the rows. The method
    makes it, in place, the sum over all ranks; every rank then takes the same step:

        class Plain:
            def aggregate(self, comm, gradient):
                gradient[:] = sum(comm.allgather(gradient))

        train_sharded(task, workers=2, aggregate=Plain)          # in a notebook: %cooptim sharded --aggregate Plain
    """

    def __init__(self, comm: Any, replica: Replica, settings: Settings, timeline: Timeline, own: Any) -> None:
        super().__init__(comm, replica, settings, timeline)
        self.own = own

    def exchange(self) -> None:
        gradient = self.replica.gradient[: self.replica.count].numpy()
        self.replica.tell()
        began = time.perf_counter()
        returned = self.own.aggregate(self.comm, gradient)
        self.timeline.called(began, ALL, gradient.nbytes)
        if returned is not None:
            raise InputError(
                f"{type(self.own).__name__}.aggregate returned a {type(returned).__name__}: it must change the "
                "gradient in place, gradient[:] = ..., and return nothing"
            )
        self._add_control()
        self.replica.step()
