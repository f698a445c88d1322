"""Which of the failures that a job has met is the one to tell, and in what words.

The ranks of one job fail together, most of them because one has: the cause is what counts, and it is never replaced by
what it has caused. From the weightiest: a **death**, since what others raise or receive then is its echo; what a
program **raised**, be it the user's mistake; what **MPI raised**, often the echo of what befell another rank; a
**stop**, which is also the interrupt by which the other ranks are ended. Of two of the same weight the first is told.

Only judges errors; what is done about them is not known here.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ..errors import LabError, RankFailure


class Weight(enum.IntEnum):
    """Of a failure, against others of the same job."""

    STOP = enum.auto()
    MPI_RAISED = enum.auto()
    RAISED = enum.auto()
    DEATH = enum.auto()


@dataclass(frozen=True)
class Failure:
    """A failure and its weight."""

    weight: Weight
    error: LabError


def weightier(known: Failure | None, new: Failure) -> Failure:
    """The one to tell."""
    return new if known is None or new.weight > known.weight else known


def is_of_mpi(error: LabError) -> bool:
    """Whether MPI itself raised on a rank."""
    return isinstance(error, RankFailure) and error.message.startswith("mpi4py.MPI.Exception")


def say_more(failure: LabError, more: str) -> LabError:
    """The same failure, with `more` at the end of its message."""
    if isinstance(failure, RankFailure):
        said = f"{failure.message}; {more}"
        return RankFailure(failure.rank, failure.host, said, failure.remote_traceback)
    return type(failure)(f"{failure}; {more}")
