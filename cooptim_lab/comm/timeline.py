"""Where the time of a sharded run goes: computing, communicating, waiting for others; for every rank.

While it trains, a rank only notes when it came to a collective call and when it left it: two readings of a clock, as
plain numbers, which the garbage collector need not look through. Now and then all exchange what they noted. A rank
waited from when it came until the last one came that the call needs; the rest of the call is communication; whatever is
outside of calls is computing. Clocks of different hosts are set by a few messages at the beginning.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from .waiting import complete

SHARE_SECONDS = 0.5
"""How often times are exchanged and told."""
ALL, ROOT, OTHERS = "all", "root", "others"
"""Who waits in a call, and for whom: all for all; rank 0 for all; all others for rank 0."""
ROUND_TRIPS = 10


@dataclass(frozen=True)
class Share:
    """What one rank spent, in seconds, and sent, in bytes, over some steps."""

    rank: int
    steps: int
    compute: float
    communication: float
    waiting: float
    sent: int


class Timeline:
    """One rank's times.

    Attributes
    ----------
    totals : numpy.ndarray
        On rank 0, those of every rank since `restart`, (ranks, 5): steps, compute, communication, waiting, bytes.
    """

    def __init__(self, comm: Any) -> None:
        self.comm, self.rank, self.size = comm, comm.Get_rank(), comm.Get_size()
        self.totals = np.zeros((self.size, 5))
        self._offset = agree_on_time(comm)
        self._times, self._kinds = array("d"), list[str]()  # of every call: when it came and when it left; its kind
        self._steps = 0
        self._sent = 0
        self._direct = [0.0, 0.0]  # communication and waiting that a rank knows by itself
        self._apart = np.zeros(5)  # what was told by this rank alone, and is not in `totals` yet
        self._elapsed, self._since = 0.0, time.perf_counter()
        self._told = self._since
        self._is_paused = False

    def called(self, began: float, kind: str, sent: int) -> None:
        """After a call to which this rank came at `began` (perf_counter); `kind` says who waits for whom."""
        if not self._is_paused:
            self._times.append(began)
            self._times.append(time.perf_counter())
            self._kinds.append(kind)
            self._sent += sent

    def spent(self, communication: float = 0.0, waiting: float = 0.0, sent: int = 0) -> None:
        """Note what needs no comparing with others."""
        if self._is_paused:
            return
        self._direct[0] += communication
        self._direct[1] += waiting
        self._sent += sent

    def step(self) -> None:
        """A step has ended."""
        self._steps += 1

    @property
    def is_due(self) -> bool:
        """Whether times should be told again."""
        return time.perf_counter() - self._told > SHARE_SECONDS

    @contextmanager
    def paused(self) -> Iterator[None]:
        """While it lasts, no time is spent."""
        self._elapsed += time.perf_counter() - self._since
        self._is_paused = True
        yield
        self._is_paused = False
        self._since = time.perf_counter()

    def restart(self) -> None:
        """Forget what was: warming up does not count."""
        self._forget()
        self.totals[:], self._apart[:] = 0, 0
        self._elapsed, self._since = 0.0, time.perf_counter()
        self._told = self._since

    def share(self) -> list[Share]:
        """Collective, after as many calls on every rank: on rank 0, what each rank spent since the last time."""
        kinds = self._kinds
        times = gather(self.comm, np.array(self._times).reshape(-1, 2) - self._offset)
        own = gather(self.comm, np.array([self._steps, self._take_elapsed(), *self._direct, self._sent]))
        apart = gather(self.comm, self._apart)
        self._forget()
        self._apart[:] = 0
        if times is None or own is None or apart is None:
            return []
        self.totals += apart
        waited = waiting(times, kinds)
        inside = (times[..., 1] - times[..., 0]).sum(1)
        shares = []
        for rank, (steps, elapsed, known_communication, known_waiting, sent) in enumerate(own):
            stood = known_waiting + waited[rank].sum()
            communicated = known_communication + inside[rank] - waited[rank].sum()
            shares.append(Share(rank, int(steps), elapsed - communicated - stood, communicated, stood, int(sent)))
            self.totals[rank] += _numbers(shares[-1])
        return shares

    def tell(self) -> Share:
        """What this rank alone spent since the last time, where no calls are to be compared with others'."""
        steps, sent, (communication, waiting) = self._steps, self._sent, self._direct
        compute = self._take_elapsed() - communication - waiting
        self._steps, self._sent, self._direct = 0, 0, [0.0, 0.0]
        share = Share(self.rank, steps, compute, communication, waiting, sent)
        self._apart += _numbers(share)
        return share

    def _forget(self) -> None:
        """What was noted has been told."""
        self._times, self._kinds = array("d"), []
        self._steps, self._sent, self._direct = 0, 0, [0.0, 0.0]

    def _take_elapsed(self) -> float:
        now = time.perf_counter()
        elapsed = self._elapsed + now - self._since
        self._elapsed, self._since, self._told = 0.0, now, now
        return elapsed


def _numbers(share: Share) -> tuple[float, ...]:
    return share.steps, share.compute, share.communication, share.waiting, share.sent


def waiting(times: np.ndarray, kinds: list[str]) -> np.ndarray:
    """Seconds (ranks, calls) that each rank waited, of when it came and left (ranks, calls, 2)."""
    came, left, kind = times[..., 0], times[..., 1], np.array(kinds, dtype=str)
    until = np.where(kind == OTHERS, came[0], came.max(0))
    does_not_wait = (np.arange(len(came)) > 0)[:, None] & (kind == ROOT)
    return np.clip(np.where(does_not_wait, came, until) - came, 0, left - came)


def gather(comm: Any, array: np.ndarray) -> np.ndarray | None:
    """An array of every rank, all of one shape, stacked on rank 0; None elsewhere. Waits as `complete` does."""
    array = np.ascontiguousarray(array, dtype=float)
    every = np.empty((comm.Get_size(), *array.shape)) if comm.Get_rank() == 0 else None
    complete(comm.Igather(array, every, root=0), array, every)
    return every


def agree_on_time(comm: Any) -> float:
    """By how much this rank's clock is ahead of rank 0's, in seconds; 0 where that cannot be told from a message's way.

    Collective; waits as `complete` does, as a rank may have failed before it comes here. Of several round trips the
    shortest says most: Cristian, "Probabilistic clock synchronization", Distributed Computing 3, 1989.
    """
    said = np.empty(1)
    if comm.Get_rank() == 0:
        for other in range(1, comm.Get_size()):
            for _ in range(ROUND_TRIPS):
                complete(comm.Irecv(said, source=other), said)
                said[0] = time.perf_counter()
                complete(comm.Isend(said, dest=other), said)
        return 0.0
    best, offset = float("inf"), 0.0
    for _ in range(ROUND_TRIPS):
        before = time.perf_counter()
        complete(comm.Isend(said, dest=0), said)
        complete(comm.Irecv(said, source=0), said)
        after = time.perf_counter()
        if after - before < best:
            best, offset = after - before, (before + after) / 2 - float(said[0])
    return offset if abs(offset) > best / 2 else 0.0
