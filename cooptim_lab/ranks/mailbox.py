"""What the pool's thread is told while it waits: by the ranks (wire.py), and by this process's other threads.

One mailbox for one launch of ranks, in the order in which things were noticed. What to make of them is not known here.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass
from typing import Any

Mailbox = queue.SimpleQueue[tuple[int | None, Any]]
"""(rank, message): a message of `wire` or one of these; rank None where it is of no rank in particular."""


@dataclass(frozen=True)
class Printed:
    """Whole lines that a rank has printed; of rank None, a process that MPI has started for one."""

    stream: str
    text: str


@dataclass(frozen=True)
class Printing:
    """How a line looks now that a rank has not ended yet; empty where it is gone without an end."""

    stream: str
    text: str


@dataclass(frozen=True)
class Unreadable:
    """The rank sent something that cannot be opened here: an object of a class that this process has not."""

    why: str


@dataclass(frozen=True)
class Lost:
    """The rank is gone, or (rank None) the whole launch."""

    others: frozenset[int] = frozenset()
    """Ranks that were found gone at the same look: any of them may have been the first."""


@dataclass(frozen=True)
class StopAsked:
    """The run's `stop_level` is to be looked at: 1 asks, 2 interrupts, 3 ends the ranks."""


@dataclass(frozen=True)
class Closing:
    """The pool is about to end its ranks for good."""
