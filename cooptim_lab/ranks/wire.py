"""What the kernel and its ranks say to each other on the control connection (meeting.py opens it)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .carried import Carried
from .parcel import Parcel


@dataclass(frozen=True)
class Hello:
    """What a rank says first, on its control connection."""

    rank: int
    size: int
    host: str
    pid: int
    library: str
    """The MPI library's own version line."""
    machine: str
    """Ranks of the same machine can map each other's memory, see `parcel.machine`."""
    cpus: int
    """How many of its machine's CPUs this rank may use, quota included."""
    affinity: tuple[int, ...]
    """Which CPUs it is bound to; empty where the system cannot tell."""
    segments: tuple[str, ...] = ()
    """Shared-memory files that MPI has opened for this rank."""


# What follows on the control connection. Kernel -> rank:


@dataclass(frozen=True)
class Start:
    """Run a program."""

    job: int
    workers: int
    threads: int
    takes_turns: bool
    """Whether it shares its CPUs with more ranks than there are."""
    carried: Carried
    calls: tuple[Parcel, ...]
    """First (function, keyword arguments), then further keyword arguments, this rank's own."""


@dataclass(frozen=True)
class Aside:
    """A job begins in which this rank has no part. It says `Begun` all the same: alive, that is."""

    job: int


@dataclass(frozen=True)
class Stop:
    """End job `job` early: by the flag that programs look at, or (hard) by KeyboardInterrupt."""

    job: int
    hard: bool = False


@dataclass(frozen=True)
class Rest:
    """Every rank has ended the job: no other one needs this one's MPI any more."""


@dataclass(frozen=True)
class Leave:
    """Finalize MPI and exit."""


@dataclass(frozen=True)
class Ask:
    """Say how you are: answered by `Told` at once, also while a program runs."""


@dataclass(frozen=True)
class Store:
    """Part of the kernel's memory file `file`, for a machine that cannot map it; `data` empty: it is complete."""

    job: int
    file: str
    data: bytes


@dataclass(frozen=True)
class Forget:
    """Close what was stored for a job: whoever needs it has mapped it."""

    job: int


# Rank -> kernel:


@dataclass(frozen=True)
class Told:
    """How a rank is."""

    memory: int | None
    """Its proportional set size in bytes; None where the system does not tell."""
    threads: int | None


@dataclass(frozen=True)
class Stored:
    """What came by `Store` lies on this machine at `path`."""

    job: int
    file: str
    path: str


@dataclass(frozen=True)
class Begun:
    """The rank has heard of a job and begins: its end is the job's from now on. Sent before the program is opened."""

    job: int


@dataclass(frozen=True)
class Happened:
    """Events of a job, in their order: each a `runs.events.Event`."""

    job: int
    events: tuple[Any, ...]


@dataclass(frozen=True)
class Unsound:
    """The job's program has left the rank in the middle of something: no other is to find it so. Before its end."""

    job: int
    why: str


@dataclass(frozen=True)
class HasImported:
    """Files of the user's that this rank has imported since it last said so (see `imported`). Before a job's end."""

    files: Mapping[str, int]


@dataclass(frozen=True)
class Finished:
    """The job's program returned on this rank; `value` is cloudpickle's bytes."""

    job: int
    value: bytes


@dataclass(frozen=True)
class Failed:
    """The job's program raised on this rank. `kind` is input (the user's mistake), interrupt, or error."""

    job: int
    kind: str
    message: str
    traceback: str
