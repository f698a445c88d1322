"""The first lesson: one vector, computed in parts at the same time. On threads of one process, then on MPI ranks.

S = Σ x_i = Σ_p Σ_{i in part p} x_i
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .comm.context import Context
from .errors import InputError
from .ranks.pool import RankPool
from .ranks.shared import shared_pool

Function = Callable[[NDArray[Any]], Any]

REDUCES_ITSELF = (np.sum, np.prod, np.max, np.min, np.any, np.all, sum, max, min, any, all)
"""fn(parts' results) = fn(whole)."""
ADDS_UP = (np.count_nonzero, np.nansum, np.size, len)
"""The sum of fn(parts) = fn(whole). What a user's own function computes is taken to add up too."""


def parallel_calculate(
    x: ArrayLike, parts: int = 4, fn: Function = np.sum, *, combine: Callable[[list[Any]], Any] | None = None
) -> Any:
    """fn of a vector, its parts computed at the same time on threads and then combined.

    NumPy's functions release the interpreter's lock while they compute, so the threads really run at the same time.

    Parameters
    ----------
    x
        Of any length (rows, ...); cut along the first axis, sizes differing by one at most.
    parts
        How many; of a shorter vector, one per row.
    fn
        Computes one part.
    combine
        Makes the whole of the list of the parts' results. Default: `fn` itself for sums, products, extremes, any and
        all; the mean weighted by size for `np.mean`; otherwise the sum.

    Raises
    ------
    InputError
        When `parts` is below 1, or `fn` is one of NumPy's that is not known to add up (a median, say) and `combine` is
        not given.
    """
    vector = np.asarray(x)
    pieces = _cut(vector, parts, "parts")
    combine = combine or _combination(fn, pieces)
    with ThreadPoolExecutor(max_workers=len(pieces)) as threads:
        return combine(list(threads.map(fn, pieces)))


def distributed_calculate(
    x: ArrayLike, workers: int = 4, fn: Function = np.sum, *, pool: RankPool | None = None
) -> list[Any]:
    """fn of every part of a vector, each computed on an MPI rank of its own.

    Parameters
    ----------
    x
        Of any length (rows, ...); each rank is sent its part only.
    workers
        How many ranks; of a shorter vector, one per row.
    fn
        Computes one part; travels by value.
    pool
        The ranks to use; this process's own when left out.

    Returns
    -------
    list
        The partial results, in the order of the parts.

    Raises
    ------
    InputError
        When `workers` is below 1 or `fn` cannot be sent.
    RankFailure
        When `fn` raises: names the rank and shows its traceback.
    """
    pieces = _cut(np.asarray(x), workers, "workers")
    return (pool or shared_pool()).run(
        _calculate_part, workers=len(pieces), per_rank=[{"part": piece} for piece in pieces], fn=fn
    )


def _calculate_part(context: Context, part: NDArray[Any], fn: Function) -> Any:
    return fn(part)


def _cut(vector: NDArray[Any], parts: int, name: str) -> Sequence[NDArray[Any]]:
    if isinstance(parts, bool) or not isinstance(parts, (int, np.integer)) or parts < 1:
        raise InputError(f"{name} = {parts!r}: must be a whole number, 1 or more")
    if vector.ndim == 0:
        raise InputError(f"x is the single value {vector}: give a vector")
    return np.array_split(vector, max(1, min(parts, len(vector))))


def _combination(fn: Function, pieces: Sequence[NDArray[Any]]) -> Callable[[list[Any]], Any]:
    if fn in REDUCES_ITSELF:
        return lambda results: fn(np.asarray(results))
    if fn is np.mean:
        if not sum(piece.size for piece in pieces):
            raise InputError("x is empty: it has no mean")
        return lambda results: np.average(results, weights=[piece.size for piece in pieces])
    is_numpy = isinstance(fn, np.ufunc) or str(getattr(fn, "__module__", "")).partition(".")[0] == "numpy"
    if is_numpy and fn not in ADDS_UP:
        raise InputError(
            f"{getattr(fn, '__name__', fn)} of the whole cannot be made of its parts: give combine=..., or use fn(x)"
        )
    return lambda results: sum(results[1:], start=results[0])
