"""What a program of training is told of its checkpoints. Imports no torch, so that the kernel may."""

from __future__ import annotations

from dataclasses import dataclass

FRESH, MUST, IF_THERE = "fresh", "must", "if there"
"""Begin anew; go on from the newest checkpoint, or fail; go on from it if there is one, else begin anew."""


@dataclass(frozen=True)
class Keeping:
    """Where a run's checkpoints lie (on rank 0's host), and whether it goes on from the newest."""

    path: str
    resume: str = FRESH
