"""The errors a user can meet. Each message is one line that says what was given, what is allowed and what to do next.

Knows nothing else of the package, so that every module may raise them.
"""

from __future__ import annotations


class LabError(Exception):
    """Base of every error this package raises on purpose."""


class InputError(LabError, ValueError):
    """The user's input cannot be used: the message says what was given, what is allowed, what to do."""


class PoolError(LabError):
    """The MPI ranks could not be started or were lost while nothing was running on them."""


class RunStopped(LabError):
    """A result was asked of a run that was stopped before it had one."""


class RankFailure(LabError):
    """A run ended because a rank raised, died or was killed.

    Attributes
    ----------
    rank : int
        The MPI rank that failed first.
    host : str
        The host it ran on.
    remote_traceback : str | None
        That rank's own traceback, or None if it died without one.
    """

    def __init__(self, rank: int, host: str, message: str, remote_traceback: str | None = None) -> None:
        super().__init__(rank, host, message, remote_traceback)
        self.rank, self.host, self.message, self.remote_traceback = rank, host, message, remote_traceback

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}: {self.message}"

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of the kernel's own stack: the failing rank's traceback, then the one line."""
        lines = [] if self.remote_traceback is None else self.remote_traceback.rstrip().splitlines()
        return [*lines, f"RankFailure: {self}"]
