"""Why workers are not as many times faster: what of their time is lost, and how serial that makes the work.

The efficiency of N workers is the product of how evenly they compute, how little of the time goes to communication, and
how little more there is to compute than for one (the POP centre's efficiencies: Rosas, Giménez & Labarta, "Scalability
prediction for fundamental performance factors", Supercomputing Frontiers and Innovations 1(2), 2014). Here each is told
as what it takes of the workers' time, so that they add up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InputError

LITTLE = 0.005
"""Less of the time is not told."""


def karp_flatt(speedup: float, workers: int) -> float:
    """The experimentally determined serial fraction e = (1/S − 1/p) / (1 − 1/p): 0 is perfect use of p workers.

    Where Amdahl's law holds it is the same for every p; where it grows with p, something else grows too: communication,
    waiting. Karp & Flatt, "Measuring parallel processor performance", CACM 33(5), 1990.

    Raises
    ------
    InputError
        For one worker, which says nothing of it, or a speedup that is not above 0.
    """
    if workers < 2 or not speedup > 0:
        raise InputError(
            f"workers = {workers}, speedup = {speedup}: a serial fraction needs 2 workers, and one above 0"
        )
    return (1 / speedup - 1 / workers) / (1 - 1 / workers)


def lost(breakdown: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Of all ranks' time, the parts that went to waiting and to exchanging; of a result's `breakdown`."""
    parts = ("compute", "communication", "waiting")
    compute, exchanging, waiting = (sum(rank[part] for rank in breakdown) for part in parts)
    total = compute + exchanging + waiting
    return (waiting / total, exchanging / total) if total > 0 else (0.0, 0.0)


def explain(waiting: float, exchanging: float, efficiency: float | None = None) -> str:
    """One line of what is lost, the largest first; all as parts of the workers' time.

    Parameters
    ----------
    efficiency
        Speedup over workers, where it was measured: then also what they compute more, or less, than one alone.
    """
    more = 0.0 if efficiency is None else 1 - efficiency - waiting - exchanging
    parts = {"waiting": waiting, "exchanging": exchanging, "more work in total": more}
    told = [f"{100 * part:.0f} % {name}" for name, part in _largest_first(parts) if part >= LITTLE]
    all_lost = waiting + exchanging if efficiency is None else 1 - efficiency
    less = f"; they compute {-100 * more:.0f} % less in total than one alone" if more <= -LITTLE else ""
    if all_lost < LITTLE:
        return f"nothing is lost{less}"
    return f"{100 * all_lost:.0f} % is lost: {', '.join(told)}{less}"


def _largest_first(parts: Mapping[str, float]) -> list[tuple[str, float]]:
    return sorted(parts.items(), key=lambda part: -part[1])
