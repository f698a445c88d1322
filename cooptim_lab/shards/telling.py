"""What a sharded run says to its reader beside losses and scores: where the time went, how BatchNorm normalises."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

from torch import nn

from ..comm.context import Context, Report
from ..comm.objects import allgather
from ..comm.timeline import Share, Timeline
from ..preparing.examination.apart import GRADIENT, OUTPUTS, Apart
from ..runs.events import Event, Note, Spent, Stale
from .batchnorm import AS_IT_IS, SHARED

FEW = 3
"""Names that a line tells."""
SPENT = ("steps", "compute", "communication", "waiting", "sent")
UNTOLD = (
    "the model draws random numbers that cannot be drawn again for parts of a batch, so whether its rows meet in the "
    "network is not known: if they do, the result differs from one process; let it draw by torch, rows along an axis"
)


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


def tell_what_meets(context: Context, apart: Apart) -> None:
    """Of a network that makes something else of the parts of a batch than of the whole, on several ranks."""
    if not context.is_root or context.size == 1:
        return
    if apart.is_untold:
        context.report(Note(rank=0, text=UNTOLD))
    if not apart.training:
        return
    passed = [name for name in apart.training if name in (OUTPUTS, GRADIENT)]
    kept = [name for name in apart.training if name not in passed]
    more = f" and {len(kept) - FEW} more" if len(kept) > FEW else ""
    state = [f"what it keeps in {', '.join(kept[:FEW])}{more}"] if kept else []
    where = "rows of a batch meet in the network" if passed else "the network changes itself by the rows that it sees"
    text = (
        f"{where} (another for parts of a batch than for the whole: {', '.join(passed + state)}): every rank sees its "
        "own part, so the result differs from one process"
    )
    context.report(Note(rank=0, text=text))
