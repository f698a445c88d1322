"""How a rank waits for MPI: so that Python can interrupt it, and so that a long wait leaves the core to others.

A blocking MPI call does neither: it spins in C until the other ranks come, or for ever.
"""

from __future__ import annotations

import time
from typing import Any

SPINS = 2000
"""Polls before a waiting rank begins to sleep between them: about a millisecond."""
SHORTEST, LONGEST = 5e-5, 1e-3
"""Seconds of sleep between polls: doubled every `PATIENCE` of them."""
PATIENCE = 200

_abandoned: list[tuple[Any, ...]] = []
"""Requests that an interrupt left unfinished, and their buffers: MPI may write there until it is finalized."""


def complete(request: Any, *buffers: Any) -> None:
    """Wait for an MPI request.

    `buffers` are the arrays that it reads and writes; they outlive the request, also one that is interrupted.
    """
    spins, pause = 0, SHORTEST
    try:
        while not request.Test():
            spins += 1
            if spins > SPINS:
                time.sleep(pause)
                if spins % PATIENCE == 0:
                    pause = min(2 * pause, LONGEST)
    except BaseException:  # an interrupt above all; raised again below
        _abandoned.append((request, *buffers))
        raise
