"""What a program that trains may know of the rank it runs on: a communicator, a way to report, a flag to stop.

Training sees no socket, no process and no notebook: these three are all, and a test can hand in its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ..runs.events import Event


class Report(Protocol):
    """Takes any number of events, in their order."""

    def __call__(self, *events: Event) -> None: ...


@dataclass(frozen=True)
class Context:
    """The surroundings of a program on one rank."""

    comm: Any
    """mpi4py communicator of the ranks that carry this run."""
    report: Report
    """Sends events to whoever watches; several at once cost little more than one."""
    stopping: Callable[[], bool]
    """True once the run was asked to end early. Each rank may learn of it at another step."""
    threads: int = 1
    """Threads that each rank may use."""

    @property
    def rank(self) -> int:
        return self.comm.Get_rank()

    @property
    def size(self) -> int:
        return self.comm.Get_size()

    @property
    def is_root(self) -> bool:
        return self.rank == 0
