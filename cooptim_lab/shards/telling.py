"""What a sharded run says to its reader beside losses and scores: where the time went, how BatchNorm normalises."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from torch import nn

from ..comm.context import Context, Report
from ..comm.objects import allgather
from ..comm.timeline import Share, Timeline
from ..runs.events import Event, Note, Spent, Stale
from .batchnorm import AS_IT_IS, SHARED

SPENT = ("steps", "compute", "communication", "waiting", "sent")


def tell_times(report: Report, shares: Sequence[Share], staleness: tuple[float, int] | None) -> None:
    """What ranks spent since the last time; `staleness` as `Aggregator.staleness` has it."""
    events: list[Event] = [Spent(rank=share.rank, **{name: getattr(share, name) for name in SPENT}) for share in shares]
    if events and staleness is not None:
        events.append(Stale(rank=0, mean=staleness[0], most=staleness[1]))
    if events:
        report(*events)


def breakdown(timeline: Timeline, hosts: Sequence[str]) -> tuple[dict[str, Any], ...]:
    """By rank, all that was spent; on rank 0."""
    return tuple(
        {"rank": rank, "host": host, **dict(zip(SPENT, numbers, strict=True))}
        for rank, (host, numbers) in enumerate(zip(hosts, timeline.totals.tolist(), strict=True))
    )


def tell_what_differs(context: Context, model: nn.Module) -> None:
    """Compare what the ranks hold at the end, which is to be the same, bit for bit. Collective."""
    mine = {name: zlib.crc32(p.detach().contiguous().numpy().data) for name, p in model.named_parameters()}
    every = allgather(context.comm, mine)
    other = [name for name in mine if len({of[name] for of in every}) > 1]
    if other and context.is_root:
        names = ", ".join(other[:3]) + (f" and {len(other) - 3} more" if len(other) > 3 else "")
        text = f"ranks hold different values of {names} at the end (the model changes them itself): rank 0's are kept"
        context.report(Note(rank=0, text=text))


def tell_how_it_normalises(context: Context, how: str) -> None:
    """Of a network with BatchNorm on several ranks."""
    if context.is_root and how != AS_IT_IS:
        if how == SHARED:
            text = "BatchNorm normalises over the rows of all ranks, as one process would"
        else:
            text = (
                "BatchNorm: every rank normalises by its own part of a batch, so the result differs from one process; "
                "the running statistics are averaged"
            )
        context.report(Note(rank=0, text=text, is_doubt=how != SHARED))
