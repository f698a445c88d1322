"""The fastest message is the one that is not sent: on one host, weights and gradients lie in memory of all ranks.

Each rank adds its part of all gradients, in the order of ranks, and updates its part of the weights, of which there is
one copy; so there is of what the optimizer remembers. Two meetings a step: all gradients are there; all weights are.
The order of the sum is fixed and every number is updated once, so the result is that of `ordered`, bit for bit.

A small network is not divided: there a second meeting takes longer than what it saves, so each rank adds up all
gradients, where the others have put them, and makes the whole step. So it is with an optimizer that cannot be given a
part of the weights. The bits are the same.

Over several hosts there is one such memory on each. As many ranks as the smallest has own a part there, and what the
i-th ranks of all hosts have added up goes between them: every number crosses a link once.

A part of the optimizer on each rank: Rajbhandari et al., "ZeRO: memory optimizations toward training trillion parameter
models", SC 2020; here in one memory.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...comm.host import LINE, Meeting, find_host, share
from ...comm.objects import agreed, barrier
from ...comm.timeline import ALL, Timeline
from ...comm.waiting import complete
from ...errors import InputError
from ...training.spec import UNDIVIDED
from ...training.stepping import clip_factor
from .base import Settings
from .place import OWN_MEMORY, Place
from .replica import CONTROL, Replica
from .synchronous import Synchronous, add_in_order

PAGE = 4096


class OneMemory(Place):
    """Of all ranks of a host: the weights once, a gradient of each rank, and words by which they meet.

    Attributes
    ----------
    host : Host
        Who they are.
    every : numpy.ndarray
        The gradients of all of them, in the order of ranks, and what is behind each: (ranks, numbers).
    start, end : int
        The weights that this rank updates.
    is_divided : bool
        Whether each rank updates a part of the weights. If not, weights and gradient are its own, and `every` is where
        all put their gradients, in turns of two: (2, ranks, numbers).
    said : numpy.ndarray
        What all ranks of all hosts had to say, (CONTROL,), for those that own no part.
    """

    def __init__(self, comm: Any, timeline: Timeline) -> None:
        self._comm, self._timeline = comm, timeline
        self.host = find_host(comm)

    def make(self, numbers: int, dtype: torch.dtype, divisible: bool) -> tuple[Tensor, Tensor]:
        """Collective."""
        ranks, kind = len(self.host.ranks), torch.empty(0, dtype=dtype).numpy().dtype
        head, width = _pages(Meeting.room(ranks)), _pages(numbers * kind.itemsize)
        self.is_divided = self.host.count > 1 or (divisible and numbers * kind.itemsize > UNDIVIDED)
        count = ranks + 1 if self.is_divided else 2 * ranks
        memory = share(self._comm, self.host, head + count * width)
        self.meeting = Meeting(self._comm, self.host, memory, self._timeline)
        rows = np.frombuffer(memory, kind, count * width // kind.itemsize, head).reshape(count, -1)[:, :numbers]
        if not self.is_divided:
            self.every = rows.reshape(2, ranks, -1)
            return OWN_MEMORY.make(numbers, dtype, divisible)
        weights, self.every = rows[0], rows[1:]
        self.said = weights[-CONTROL:]
        return torch.from_numpy(weights), torch.from_numpy(self.every[self.host.place])

    def part(self, count: int) -> tuple[int, int]:
        """Borders lie between cache lines: two ranks that write to one would take it from each other."""
        if not self.is_divided:
            return 0, count
        in_line, owners, place = LINE // self.every.itemsize, self.host.fewest, self.host.place
        lines = -(-count // in_line)
        self.start, self.end = (min(count, lines * min(i, owners) // owners * in_line) for i in (place, place + 1))
        return self.start, self.end

    def total(self, gradient: Tensor, start: int, end: int) -> Tensor:
        """In the first rank's gradient: of that, nobody needs this part again."""
        if not self.is_divided:
            return gradient[start:end]
        return torch.from_numpy(self.every[0, start:end])


def _pages(size: int) -> int:
    """Bytes, of whole pages."""
    return -(-size // PAGE) * PAGE


class Shared(Synchronous):
    """Each rank adds up, and updates, a part of the weights that all have."""

    is_replicated, shares_weights = False, True

    def __init__(self, comm: Any, replica: Replica, settings: Settings, timeline: Timeline) -> None:
        super().__init__(comm, replica, settings, timeline)
        place = replica.place
        assert isinstance(place, OneMemory)
        start, end = place.start, place.end
        self._place, self._meeting, self._mine = place, place.meeting, replica.weights[start:end]
        self._total, *self._others = (torch.from_numpy(row[start:end]) for row in place.every)
        self._tails, self._tail = place.every[:, replica.count :], np.zeros(replica.behind, place.every.dtype)
        self._across = self._reach_across() if place.host.count > 1 else None
        self._told = np.ones(len(replica.parameters), place.every.dtype)
        self._heard = self._tail if self._across is None else place.said
        self._before: Tensor | None = None

    def watch(self) -> None:
        """From now on see, after every step, that nobody but this class has written to the weights. Collective."""
        self._before = self._mine.clone()
        barrier(self.comm)  # nobody computes before all have a copy

    def _reach_across(self) -> Any:
        """Communicator of the ranks of all hosts that own the same part, or of those that own none. Collective."""
        return self.comm.Split(min(self._place.host.place, self._place.host.fewest), self.rank)

    @property
    def _is_owner(self) -> bool:
        return self._place.host.place < self._place.host.fewest

    @property
    def heard(self) -> np.ndarray:
        return self._heard

    def exchange(self) -> None:
        replica, meeting = self.replica, self._meeting
        meeting.mark(bool(replica.untouched()))
        meeting.meet()
        if self._before is not None:
            agreed(self.comm, self._see_unwritten)
        untouched = self._untouched() if meeting.is_marked() or self._across is not None else ()
        for part in self._others:
            self._total.add_(part)
        np.add.reduce(self._tails, 0, out=self._tail)
        if self._across is not None:
            untouched = self._add_hosts(untouched)
        if replica.clip is not None:
            self._clip(replica.clip)
        if len(self._mine):
            replica.update_part(untouched)
        replica.follow()
        if self._before is not None:
            self._before.copy_(self._mine)
        meeting.meet()

    def _untouched(self) -> Sequence[int]:
        """Places of the parameters that no rank of the host has given a gradient: they look so whoever adds them up."""
        first, *others = (self.replica.untouched(row) for row in self._place.every)
        return [place for place in first if all(place in each for each in others)]

    def _add_hosts(self, untouched: Sequence[int]) -> Sequence[int]:
        """This rank's part, and what is said, of all hosts; returns the parameters that are untouched on all."""
        from mpi4py import MPI

        assert self._across is not None
        began, sent = time.perf_counter(), 0
        if self._is_owner:
            self._told.fill(1)
            self._told[list(untouched)] = 0
            sums = (self._total.numpy(), self._tail, self._told)
            for request in [self._across.Iallreduce(MPI.IN_PLACE, each) for each in sums]:
                complete(request, *sums)
            sent = sum(each.nbytes for each in sums)
        self.timeline.called(began, ALL, sent)
        if self._place.host.place == 0:
            self._place.said[:] = self._tail
        return np.flatnonzero(self._told == 0).tolist()

    def _clip(self, most: float) -> None:
        """By the norm of all parts, which nobody scales before all have read it."""
        self._meeting.meet()
        factor = clip_factor(torch.from_numpy(self._place.every[0, : self.replica.count]), most)
        self._meeting.meet()
        self._total.mul_(factor)

    def _see_unwritten(self) -> None:
        """That the model has not written to its own weights: as often as there are ranks, in one memory.

        Raises
        ------
        InputError
        """
        assert self._before is not None
        if not np.array_equal(self._before.numpy().view(np.uint8), self._mine.numpy().view(np.uint8)):
            raise InputError(
                "the model writes to its own parameters while it computes, and here all ranks have the same ones: "
                "aggregate by allreduce"
            )

    def close(self) -> None:
        if self._across is not None:
            self._across.Free()


class Posted(Synchronous):
    """Each rank puts its gradient where all can read it, adds up those of all, and makes the whole step: one meeting.

    They put it in one of two places in turn: nobody is a whole meeting ahead, so what is being read is not written to.
    """

    def __init__(self, comm: Any, replica: Replica, settings: Settings, timeline: Timeline) -> None:
        super().__init__(comm, replica, settings, timeline)
        place = replica.place
        assert isinstance(place, OneMemory)
        self._meeting, self._mine, self._turn = place.meeting, place.host.place, 0
        self._every = [[torch.from_numpy(row) for row in rows] for rows in place.every]

    def exchange(self) -> None:
        every = self._every[self._turn]
        self._turn = 1 - self._turn
        every[self._mine].copy_(self.replica.gradient)
        self._meeting.meet()
        add_in_order(every, self.replica.gradient)
        self.replica.step()
