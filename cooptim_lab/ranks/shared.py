"""The pool of this process, which all calls use that are not given one.

Knows when there is one, and nothing of how it works.
"""

from __future__ import annotations

import threading

from ..hardware import allowed_cpus
from .pool import RankPool

SHARED_WORKERS = 2
"""What the shared pool starts with where there are CPUs for them: enough for the first lessons without a restart."""
_shared: RankPool | None = None
_sharing = threading.Lock()


def shared_pool() -> RankPool:
    """The pool of this process. Its ranks start with the first job."""
    global _shared  # noqa: PLW0603 - one pool per process is the point
    with _sharing:
        if _shared is None or _shared.is_closed:
            _shared = RankPool(min(allowed_cpus(), SHARED_WORKERS))
        return _shared


def share_pool(pool: RankPool) -> None:
    """Make this the pool of the process; the one before ends."""
    global _shared  # noqa: PLW0603
    with _sharing:
        if _shared is not None:
            _shared.close()
        _shared = pool


def close_shared_pool() -> None:
    """End the shared pool, if there is one; the next `shared_pool()` makes another."""
    with _sharing:
        if _shared is not None:
            _shared.close()


def shared_processes() -> dict[int, int]:
    """By rank, the processes of the shared pool that are on this machine; none where there is no pool."""
    pool = _shared
    return {} if pool is None or pool.is_closed else pool.processes
