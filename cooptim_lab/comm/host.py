"""What the ranks of one host have in common: a block of memory, and a place in it where they wait for each other.

The block is a file without a name: on Linux in no folder (memfd), so that there is none to run out of room (`/dev/shm`
of a container often has 64 MB), elsewhere in the one for temporary files. Whatever becomes of the ranks, nothing of it
is left when the last one that has it is gone. MPI's own window (`MPI.Win.Allocate_shared`) lies in `/dev/shm`, and only
all ranks together can give it back, which one that was interrupted does not do.

In it they meet by words: each writes how often it has come, in a cache line of its own, and looks at the others'. That
no message is needed is an affair of x86-64, where what one CPU writes is seen by others in the order in which it was
written; elsewhere they meet by MPI. One that has waited in vain for a while sleeps until it is woken (futex), so that
the core is another's.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..hardware import allowed_cpus
from .objects import agreed, allgather, barrier
from .timeline import ALL, Timeline

LINE = 64
"""Bytes of a cache line: what one rank writes and another reads lies in one of its own."""
PATIENCE, IMPATIENCE = 10_000, 50
"""Looks at a word before one sleeps, of some 60 ns each: where every rank has a core, and where they take turns."""
NAP_SECONDS = 1e-3
"""Of sleep at the most: a wake is lost where one looks for sleepers at the instant in which another lies down."""
WORDS = LINE // 4
CAME, ASLEEP, MARK = 0, 1, 2
"""Of a rank's words: how often it has come; whether it sleeps; what it marks for the others to see when they meet."""
HAS_FUTEX = sys.platform == "linux" and platform.machine() == "x86_64"
SYS_FUTEX, FUTEX_WAIT, FUTEX_WAKE = 202, 0, 1
"""Of Linux on x86-64 (asm/unistd_64.h, linux/futex.h)."""


@dataclass(frozen=True)
class Host:
    """Where a rank is among those of its host.

    Attributes
    ----------
    ranks
        Those of the communicator that are on it, ascending; the first makes what they share.
    place
        Of this rank among them.
    fewest, count
        Of all hosts: how many ranks the smallest has; how many hosts there are.
    """

    ranks: tuple[int, ...]
    place: int
    fewest: int
    count: int


def find_host(comm: Any) -> Host:
    """By MPI's word for who can share memory. Collective."""
    from mpi4py import MPI

    if comm.Get_size() == 1:
        return Host((0,), 0, 1, 1)
    near = comm.Split_type(MPI.COMM_TYPE_SHARED)
    first = np.array([comm.Get_rank()])
    near.Bcast(first, root=0)
    near.Free()
    firsts = allgather(comm, int(first[0]))
    ranks = tuple(rank for rank, leads in enumerate(firsts) if leads == firsts[comm.Get_rank()])
    sizes = [firsts.count(each) for each in {*firsts}]
    return Host(ranks, ranks.index(comm.Get_rank()), min(sizes), len(sizes))


def share(comm: Any, host: Host, size: int) -> mmap.mmap:
    """Memory of `size` bytes, zeros, that all ranks of a host have; the last array over it gives it back. Collective.

    Raises
    ------
    InputError
        Where the system has none of that kind, or not so much of it.
    """
    with contextlib.ExitStack() as made:
        mine = agreed(comm, lambda: _make(size, made) if host.place == 0 else "")
        paths = allgather(comm, mine)
        return agreed(comm, lambda: _open(paths[host.ranks[0]], size))


def _make(size: int, until: contextlib.ExitStack) -> str:
    """Its path, by which others can open it until then."""
    path = ""
    if hasattr(os, "memfd_create"):
        made = os.memfd_create("cooptim")
        path = f"/proc/{os.getpid()}/fd/{made}"
    else:
        made, path = tempfile.mkstemp(prefix="cooptim")
        until.callback(os.unlink, path)
    until.callback(os.close, made)
    try:  # now, and not when somebody writes to it, which would be a rank's death
        os.posix_fallocate(made, 0, size) if hasattr(os, "posix_fallocate") else os.truncate(made, size)
    except OSError as error:
        raise InputError(
            f"{size / 1e6:.0f} MB that all ranks of a host share cannot be had there ({error.strerror}): aggregate by "
            "allreduce"
        ) from error
    return path


def _open(path: str, size: int) -> mmap.mmap:
    try:
        opened = os.open(path, os.O_RDWR)
    except OSError as error:
        raise InputError(
            f"a rank cannot open the memory of another on its host ({error.strerror}): aggregate by allreduce"
        ) from error
    try:
        return mmap.mmap(opened, size)
    finally:
        os.close(opened)


class Meeting:
    """Where the ranks of a host wait until all have come.

    Parameters
    ----------
    memory
        What they share; its first `room(ranks)` bytes are this class's.
    """

    def __init__(self, comm: Any, host: Host, memory: mmap.mmap, timeline: Timeline) -> None:
        self._comm, self._host, self._timeline = comm, host, timeline
        self._words = memoryview(memory)[: self.room(len(host.ranks))].cast("i")
        self._mine = host.place * WORDS
        self._others = [place * WORDS for place in range(len(host.ranks)) if place != host.place]
        self._looks = PATIENCE if len(host.ranks) <= allowed_cpus() else IMPATIENCE
        self._times = 0
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._by_words = HAS_FUTEX or len(host.ranks) == 1

    @staticmethod
    def room(ranks: int) -> int:
        """Bytes that so many need."""
        return ranks * LINE

    def mark(self, value: bool) -> None:
        """Tell the others, who see it when all have met."""
        self._words[self._mine + MARK] = value

    def is_marked(self) -> bool:
        """Whether any of them was, or this one, when all met."""
        return any(self._words[place + MARK] for place in (self._mine, *self._others))

    def meet(self) -> None:
        """Wait until all have come as often as this rank. What each wrote before, all can read then."""
        began = time.perf_counter()
        if self._by_words:
            self._come()
        else:
            barrier(self._comm)
        self._timeline.called(began, ALL, 0)

    def _come(self) -> None:
        words, self._times = self._words, self._times + 1
        times = self._times
        words[self._mine] = times  # CAME, which is the first: additions are what this costs
        for other in self._others:
            if words[other + ASLEEP]:
                _call(SYS_FUTEX, self._address + 4 * self._mine, FUTEX_WAKE, 1 << 30, None, None, 0)
                break
        for other in self._others:
            looks = self._looks
            while words[other] < times:
                looks -= 1
                if looks < 0:
                    self._sleep(other)

    def _sleep(self, word: int) -> None:
        """Until somebody writes to that word, or a little while; also if it has just been written."""
        known = self._words[word]
        if known >= self._times:
            return
        self._words[self._mine + ASLEEP] = 1
        try:
            _call(SYS_FUTEX, self._address + 4 * word, FUTEX_WAIT, known, ctypes.byref(_NAP), None, 0)
        finally:
            self._words[self._mine + ASLEEP] = 0


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


_NAP = _Timespec(0, int(NAP_SECONDS * 1e9))
_call = ctypes.CDLL(None).syscall
_call.argtypes = (
    ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int,
)  # fmt: skip
