"""The world that each job finds: a communicator of the ranks it asked for, in which no other job has ever spoken.

`MPI.COMM_WORLD` is that communicator while the job runs, whatever the pool has. MPI was there before the job and stays
after it: a program's `Init` and `Finalize` do nothing, but that `Is_initialized` and `Is_finalized` say so.

Worlds for the jobs that follow are begun when a job has ended, and made while nobody waits for it: where 4 ranks on 2
cores make one when a program is to begin, each waits 0.8 ms for its turn. It takes 13 KiB (measured, MPICH 5.0.2).
"""

from __future__ import annotations

import importlib
import itertools
from collections import deque
from typing import Any

from ..comm.waiting import complete

AHEAD = 2
"""Worlds of a size that are begun before there is a job for them: the first is made when the second was begun, also
where jobs follow each other without a pause."""
KEPT = 64
"""Worlds of past jobs that live on, of programs that leave nothing in theirs."""
MOST = 1500
"""Worlds that may be kept for good: MPICH has some 2000 communicators, and programs make some too."""
TAGS = 32768  # MPI promises as many
NAME = "MPI_COMM_WORLD"


class Worlds:
    """Makes them, on one rank of the launch, whose MPI it ends when nobody needs it any more.

    Every rank of a job calls `take`, `make` and `end` for it, whatever becomes of its program; `make` may be cut short,
    or left out.
    """

    def __init__(self) -> None:
        self._mpi: Any = importlib.import_module("mpi4py.MPI")
        self._whole, self._end = self._mpi.COMM_WORLD, self._mpi.Finalize
        self._is_ahead = self._share_memory()
        self._sources: dict[int, Any] = {}  # by size, what worlds are copied from; nobody ever speaks there
        self._next: dict[int, deque[tuple[Any, Any]]] = {}  # by size, worlds that are being made, and their requests
        self._job = self._workers = 0
        self._taken: tuple[Any, Any] | None = None
        self._past: deque[Any] = deque()
        self._now: Any = None
        self._kept: list[Any] = []
        self._life = _Life(self._mpi)

    def take(self, workers: int, job: int) -> None:
        """A job of the first `workers` ranks is there. Collective over them where it is the first of its size."""
        self._workers, self._job = workers, job
        if not self._is_ahead:
            return
        if workers not in self._sources:
            self._sources[workers], self._next[workers] = self._create(), deque()
            for _ in range(AHEAD):
                self._begin()
        self._taken = self._next[workers].popleft()

    def make(self) -> Any:
        """The world of the job that was taken. Collective where none is made ahead.

        No copy is on its way while a program runs: MPICH 5.0.2 gives a communicator of one rank its number without
        working on anything else, and waits for ever if a copy has the numbers meanwhile. The other ranks work on their
        parts of those copies where they are: at rest, or here.
        """
        if self._taken is None:
            world = self._create()
        else:
            world, request = self._taken
            complete(request, world)
        for each, request in itertools.chain.from_iterable(self._next.values()):
            complete(request, each)
        world.Set_name(NAME)
        self._mpi.COMM_WORLD = self._now = world
        self._life.begin()
        return world

    def end(self, *, is_clean: bool) -> str:
        """The job has ended; returns why there can be no other, often "".

        A program that leaves nothing in its world (`is_clean`) needs it no more. Any other's is never freed: what was
        sent there and not received would be received in the next world of the same number, and a later cell may use
        what this one has kept of it.
        """
        taken, self._taken = self._taken, None
        try:
            if self._is_ahead:
                self._begin()
        except self._mpi.Exception as error:
            return f"so many communicators that MPI makes no other ({error.Get_error_string()})"
        world, self._now = self._now, None
        if world is None:  # it never came to that
            if taken is not None:
                self._kept.append(taken)  # MPI may still write to it
            return ""
        if not is_clean:
            self._kept.append(world)
            return "" if len(self._kept) < MOST else f"the last of the {MOST} worlds that MPI has room for"
        self._past.append(world)
        if len(self._past) > KEPT:
            self._free(self._past.popleft())
        return ""

    def progress(self) -> bool:
        """Let MPI work on what other ranks want of this one; whether the next worlds are made, as far as begun."""
        self._whole.Iprobe()
        return all(request.Test() for ahead in self._next.values() for _, request in ahead)

    def close(self) -> None:
        """End MPI. Collective over all ranks of the launch."""
        self._end()

    def _share_memory(self) -> bool:
        """Whether all ranks of the launch do. Collective.

        Where they do not, a world is made when it is needed: a rank that has made its own may still have to push what
        others wait for through the network, and would not while its program computes.
        """
        near = self._whole.Split_type(self._mpi.COMM_TYPE_SHARED)
        size = near.Get_size()
        near.Free()
        return size == self._whole.Get_size()

    def _create(self) -> Any:
        group = self._whole.Get_group().Range_incl([(0, self._workers - 1, 1)])
        world = self._whole.Create_group(group, self._job % TAGS)
        group.Free()
        return world

    def _begin(self) -> None:
        """A world for a job of this size that is to come."""
        self._next[self._workers].append(self._sources[self._workers].Idup())

    def _free(self, world: Any) -> None:
        """No other rank needs to do so at the same time: what MPI keeps of a communicator, it counts by itself."""
        if world != self._mpi.COMM_NULL:  # its job has freed it
            world.Free()


class _Life:
    """Of MPI, as a program sees it, in place of the module's own functions."""

    def __init__(self, mpi: Any) -> None:
        self._level, self._wishes = mpi.Query_thread(), importlib.import_module("mpi4py").rc
        self.begin()
        names = ("Init", "Init_thread", "Finalize", "Is_initialized", "Is_finalized")
        vars(mpi).update({name: getattr(self, name) for name in names})

    def begin(self) -> None:
        """A program begins."""
        self._is_begun = self._is_ended = False

    def Init(self) -> None:
        self._is_begun = True

    def Init_thread(self, required: int = -1) -> int:
        self._is_begun = True
        return self._level

    def Finalize(self) -> None:
        self._is_ended = True

    def Is_initialized(self) -> bool:
        return self._is_begun or bool(self._wishes.initialize)

    def Is_finalized(self) -> bool:
        return self._is_ended
