"""How a rank waits for MPI: so that Python can interrupt it, and so that a long wait leaves the core to others.

A blocking MPI call does neither: it spins in C until the other ranks come, or for ever.
"""

from __future__ import annotations

import time
from typing import Any

SPINS, FEW_SPINS = 2000, 10
"""Polls before a waiting rank begins to sleep between them: about a millisecond; or few, where another rank wants the
core. Steps of 4 and of 8 ranks on 2 cores took 0.65 and 0.57 of the time so, by server; 2 ranks on 2 cores, twice as
long."""
SHORTEST, LONGEST = 5e-5, 1e-3
"""Seconds of sleep between polls: doubled every `PATIENCE` of them."""
PATIENCE = 200

_abandoned: list[tuple[Any, ...]] = []
"""Requests that an interrupt left unfinished, and their buffers: MPI may write there until it is finalized."""


class _Manners:
    """How this process waits."""

    spins = SPINS


def take_turns(has_to: bool) -> None:
    """Whether this rank shares its core with others: then it leaves it to them soon whenever it waits."""
    _Manners.spins = FEW_SPINS if has_to else SPINS


def complete(request: Any, *buffers: Any) -> None:
    """Wait for an MPI request.

    `buffers` are the arrays that it reads and writes; they outlive the request, also one that is interrupted.
    """
    spins, pause = 0, SHORTEST
    try:
        while not request.Test():
            spins += 1
            if spins > _Manners.spins:
                time.sleep(pause)
                if spins % PATIENCE == 0:
                    pause = min(2 * pause, LONGEST)
    except BaseException:  # an interrupt above all; raised again below
        _abandoned.append((request, *buffers))
        raise
