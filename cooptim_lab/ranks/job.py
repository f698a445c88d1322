"""What the ranks are to do on behalf of a run: a program, what each rank is sent of it, and what becomes of its values.

Knows neither ranks nor how a job goes on them (attempt.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import LabError
from ..runs.run import Run
from .carried import Carried
from .parcel import Parcel, Sender

Finish = Callable[[Run[Any], list[Any], bool], None]
"""Makes the run's result of the values of all ranks, in their order; the flag says whether it was asked to stop."""

MOST_NAMES = 32
"""Of numbers that a rank returns by name: more of them are data, not a result, and no matter for a record."""


@dataclass(frozen=True)
class Job:
    """A program for `workers` ranks, on behalf of a run; see `RankPool.submit` for what the fields mean."""

    id: int
    run: Run[Any]
    calls: tuple[tuple[Parcel, ...], ...]
    sender: Sender
    workers: int
    finish: Finish
    is_cooperative: bool
    timeout: float | None = None
    rescue: Callable[[LabError], bool] | None = None
    carried: Carried = field(default_factory=Carried.read)


def pack_calls(
    program: Callable[..., Any], arguments: Mapping[str, Any], per_rank: Sequence[Mapping[str, Any]]
) -> tuple[tuple[tuple[Parcel, ...], ...], Sender]:
    """What each rank is sent, in their order, and who keeps it: what all need is packed once.

    Raises
    ------
    InputError
        When the program or its arguments cannot be sent.
    """
    sender = Sender()
    try:
        shared = sender.pack((program, dict(arguments)))
        return tuple((shared, *([sender.pack(dict(own))] if own else [])) for own in per_rank), sender
    except BaseException:  # an interrupt too: the memory files are nobody's then
        sender.close()
        raise


def give_values(run: Run[Any], values: list[Any], stopped: bool) -> None:
    """The plainest `Finish`: the result is the ranks' values, in order; those that are JSON are on record too."""
    run.finish(values, summary={"values": [value if _is_plain(value) else None for value in values]})


def _is_plain(value: Any) -> bool:
    """Whether a value is a number, or some by name: what a record has room for."""
    if isinstance(value, dict):
        return len(value) <= MOST_NAMES and all(
            isinstance(name, str) and _is_number(one) for name, one in value.items()
        )
    return _is_number(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float, bool)
