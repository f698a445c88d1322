"""The world that each job finds: a communicator of the ranks it asked for, in which no other job has ever spoken.

`MPI.COMM_WORLD` is that communicator while the job runs, whatever the pool has. MPI was there before the job and stays
after it: a program's `Init` and `Finalize` do nothing, but that `Is_initialized` and `Is_finalized` say so. Making a
world takes 6 microseconds (2 ranks on 2 cores; 0.5 ms where 4 ranks wait for their turn) and 13 KiB (measured, MPICH
5.0.2).
"""

from __future__ import annotations

import importlib
from collections import deque
from typing import Any

KEPT = 64
"""Worlds of past jobs that live on, of programs that leave nothing in theirs."""
MOST = 1500
"""Worlds that may be kept for good: MPICH has some 2000 communicators, and programs make some too."""
TAGS = 32768  # MPI promises as many
NAME = "MPI_COMM_WORLD"


class Worlds:
    """Makes them, on one rank of the launch, whose MPI it ends when nobody needs it any more."""

    def __init__(self) -> None:
        self._mpi: Any = importlib.import_module("mpi4py.MPI")
        self._whole, self._end = self._mpi.COMM_WORLD, self._mpi.Finalize
        self._past: deque[Any] = deque()
        self._now: Any = None
        self._kept: list[Any] = []
        self._life = _Life(self._mpi)

    def make(self, workers: int, job: int) -> Any:
        """Of the first `workers` ranks. Collective over them."""
        group = self._whole.Get_group().Range_incl([(0, workers - 1, 1)])
        world = self._whole.Create_group(group, job % TAGS)
        group.Free()
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
        world, self._now = self._now, None
        if world is None:  # it never came to that
            return ""
        if not is_clean:
            self._kept.append(world)
            return "" if len(self._kept) < MOST else f"the last of {MOST} worlds, and MPI has few more"
        self._past.append(world)
        if len(self._past) > KEPT:
            self._free(self._past.popleft())
        return ""

    def progress(self) -> None:
        """Let MPI work on what other ranks want of this one."""
        self._whole.Iprobe()

    def close(self) -> None:
        """End MPI. Collective over all ranks of the launch."""
        self._end()

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
