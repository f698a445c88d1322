"""Which of the failures that a job has met is the one to tell, and in what words.

The ranks of one job fail together, most of them because one has: the cause is what counts. Only judges errors; what is
done about them is not known here.
"""

from __future__ import annotations

from ..errors import LabError, RankFailure, RunStopped


def weightier(known: LabError | None, new: LabError) -> LabError:
    """The one to tell: the first, but a real one before what a stop, or a rank's loss, has caused."""
    is_effect = isinstance(known, RunStopped) or (is_of_mpi(known) and not is_of_mpi(new))
    return new if known is None or is_effect else known


def is_of_mpi(error: LabError | None) -> bool:
    """Whether MPI itself raised on a rank: that often means that another rank is gone."""
    return isinstance(error, RankFailure) and error.message.startswith("mpi4py.MPI.Exception")


def say_more(failure: LabError, more: str) -> LabError:
    """The same failure, with `more` at the end of its message."""
    if isinstance(failure, RankFailure):
        said = f"{failure.message}; {more}"
        return RankFailure(failure.rank, failure.host, said, failure.remote_traceback)
    return type(failure)(f"{failure}; {more}")
