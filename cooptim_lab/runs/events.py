"""The typed events of a run: the one stream that every view, table and file reads.

An event says what happened, where and when; it knows nothing of how it travels, is drawn or is kept. Every event is a
frozen dataclass of JSON values: `encode` and `decode` are the only way to and from the record on disk.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened, at `time` (seconds since the epoch), on `rank` (None: in the kernel)."""

    kinds: ClassVar[dict[str, type[Event]]] = {}
    time: float = field(default_factory=time.time)
    rank: int | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        Event.kinds[cls.__name__] = cls


@dataclass(frozen=True, kw_only=True)
class Started(Event):
    """The run began: `way` of training, its options, the ranks that carry it."""

    way: str
    options: Mapping[str, Any]
    workers: int


@dataclass(frozen=True, kw_only=True)
class Points(Event):
    """Points of one curve: `x` in epochs (fractional inside one; of `costs`, workers), `y` in the curve's own unit."""

    curve: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Progress(Event):
    """This rank has done `done` of `total` steps."""

    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Phase(Event):
    """What is being done now: "starting 2 ranks", "training"."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Note(Event):
    """Something the reader of the result should know: a choice that was made, a doubt about a figure."""

    text: str
    is_doubt: bool = True
    """Whether it takes something away from the result; else it only tells how it was made."""


@dataclass(frozen=True, kw_only=True)
class Output(Event):
    """What a rank printed: whole lines, `stream` being stdout or stderr.

    Of rank None it was printed by a process that MPI has started for a rank: by which, and where, is not known.
    """

    stream: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Unfinished(Event):
    """How a line looks now that a rank has begun to print and not ended: nothing, if there is none any more.

    The next one takes its place, or the `Output` of that stream which has the line's end. Only the present state is
    ever of interest: logs keep no other, and records none.
    """

    stream: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Measured(Event):
    """One figure of a study: the row of `compare` or the point of `speedup` that was just measured."""

    row: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Beside(Event):
    """What went on beside a round of a study (see `hardware.load.Disturbance`), and why the round does not count.

    `why` is empty where it does.
    """

    round: int
    why: str
    seconds: float
    others: float | None
    stolen: float | None
    throttled: float | None
    throttled_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Raced(Event):
    """What is known of a plan by now: `row` is a `codesign.race.Entry`, or of the proof a `tuning.Part`, as JSON."""

    row: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Calibrated(Event):
    """What the links of a pool were found to carry (see `costs.links.Calibration`)."""

    links: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Costed(Event):
    """What a step costs by one way, predicted beside measured (see `costs.formulas.CostRow`)."""

    row: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sampled(Event):
    """A task's steps on this machine, by which other machines are foretold (see `scaling.here.Figures`)."""

    figures: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Foretold(Event):
    """A step of one way on a machine that is not here (see `scaling.here.Simulated`)."""

    row: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Gauged(Event):
    """One figure of what the machine can do, as far as it is known (see `hardware.ceilings.Ceiling`)."""

    ceiling: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Counted(Event):
    """What a step of a task computes and moves, by layer (see `costs.work.Step`)."""

    step: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Spent(Event):
    """Where the time of `rank` went over its last `steps`: seconds, and bytes that it sent."""

    steps: int
    compute: float
    communication: float
    waiting: float
    sent: int


@dataclass(frozen=True, kw_only=True)
class Stale(Event):
    """By how many steps the weights of a gradient were old when it was used, so far: on the average, and at most."""

    mean: float
    most: int


@dataclass(frozen=True, kw_only=True)
class Resumed(Event):
    """The run goes on from a checkpoint: what was told of later steps is void."""

    step: int
    epoch: float
    """Fractional inside one."""


@dataclass(frozen=True, kw_only=True)
class Ended(Event):
    """The last event of every run. `state` is done, stopped or failed; `summary` is the result without its tensors."""

    state: str
    message: str = ""
    traceback: str | None = None
    summary: Mapping[str, Any] = field(default_factory=dict)


def encode(event: Event) -> dict[str, Any]:
    """The event as a JSON object; its class travels as `event`."""
    return {"event": type(event).__name__, **vars(event)}


def decode(record: Mapping[str, Any]) -> Event:
    """The event that `encode` wrote.

    Raises
    ------
    ValueError
        If the record is not an event, or one of a kind this version does not know.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"not an event: {record!r}")
    fields = dict(record)
    name = fields.pop("event", None)
    kind = Event.kinds.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"unknown event: {name!r}")
    try:
        if kind is Points:
            fields["x"], fields["y"] = tuple(fields["x"]), tuple(fields["y"])
        return kind(**fields)
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a {kind.__name__} event: {error}") from None
