"""The record of runs on disk: one JSON-lines file per run, written while it goes on.

The first line says what the run is, every further line is an event. A file without an `Ended` event is a run whose
kernel went away. Nothing here draws or computes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import platformdirs  # the place that each system has for such files

from ..errors import InputError
from .events import Ended, Event, Note, Unfinished, decode, encode
from .run import Run

PLACE = "COOPTIM_HOME"
"""Environment variable: keep the record elsewhere."""


RECORD, TASK, CHECKPOINT, LOCK = ".jsonl", ".task", ".checkpoint", ".lock"
"""How the names of what is kept of a run end."""


@dataclass(frozen=True)
class Record:
    """A run as kept."""

    id: str
    kind: str
    title: str
    options: Mapping[str, Any]
    created: float
    """Seconds since the epoch."""
    pid: int
    """The kernel that ran it."""
    events: tuple[Event, ...]

    @property
    def state(self) -> str:
        """done, stopped or failed; running while its kernel lives; lost when that went away before the end."""
        if self.events and isinstance(self.events[-1], Ended):
            return self.events[-1].state
        return "running" if _is_alive(self.pid) else "lost"


def home() -> Path:
    """Where all is kept that outlives a process: the record of runs, and what else was measured once."""
    return Path(os.environ.get(PLACE) or platformdirs.user_data_path("cooptim_lab"))


def directory() -> Path:
    """Where the record is kept."""
    return home() / "runs"


def path(id: str, ending: str = RECORD) -> Path:
    """Where something of a run is kept."""
    return directory() / f"{id}{ending}"


def keep(run: Run[Any], *, again: bool = False) -> None:
    """Write a run's events to its file, from the first on, as they come. A disk that takes no more is told of, once.

    `again`, of a run that is resumed: what is on file is replaced when it has been written anew.
    """
    head = {
        "run": run.id,
        "kind": run.kind,
        "title": run.title,
        "options": run.options,
        "created": run.created,
        "pid": os.getpid(),
    }
    place = path(run.id)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        file = place.with_suffix(".again").open("w", encoding="utf-8") if again else place.open("x", encoding="utf-8")
        file.write(json.dumps(head) + "\n")
    except OSError as error:
        run.post(Note(text=f"this run is not recorded: {error}"))
        return

    def write(event: Event) -> None:
        if file.closed or isinstance(event, Unfinished):
            return
        try:
            file.write(json.dumps(encode(event), default=str) + "\n")
            file.flush()
        except OSError as error:
            _close(file)
            run.post(Note(text=f"the record of this run ends here: {error}"))
        if isinstance(event, Ended):
            _close(file)

    run.log.listen(write)
    if again and not file.closed:
        with contextlib.suppress(OSError):  # then the old record stays, without what follows
            Path(file.name).replace(place)


def keep_bytes(id: str, ending: str, data: bytes) -> None:
    """Keep something beside a run's record: all of it, or what was there before.

    Raises
    ------
    OSError
    """
    write(path(id, ending), data)


def write(place: Path, data: bytes) -> None:
    """Write a file: all of it, or what was there before.

    Raises
    ------
    OSError
    """
    fresh = place.with_name(f"{place.name}.{os.getpid()}")
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        fresh.write_bytes(data)
        fresh.replace(place)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise


def claim(id: str) -> IO[bytes]:
    """Make this process the one that carries a run, until what is returned is closed, or the process ends.

    Raises
    ------
    InputError
        When another does.
    """
    place = path(id, LOCK)
    place.parent.mkdir(parents=True, exist_ok=True)
    file = place.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise InputError(f"run {id} goes on already, here or in another kernel: stop it first") from None
    return file


def records(kinds: Collection[str] = ()) -> list[Record]:
    """Every run on disk, or those of some kinds, the newest first. A file that cannot be read is left out."""
    found = [record for place in directory().glob(f"*{RECORD}") if (record := _read(place, kinds)) is not None]
    return sorted(found, key=lambda record: record.created, reverse=True)


def load(id: str) -> Record:
    """One run.

    Raises
    ------
    InputError
        When there is none of that id.
    """
    record = _read(path(id)) if id.isalnum() else None
    if record is None:
        raise InputError(f"there is no run {id}: %cooptim runs lists them")
    return record


def _read(place: Path, kinds: Collection[str] = ()) -> Record | None:
    try:
        with place.open(encoding="utf-8") as file:
            head = json.loads(file.readline())
            if kinds and head["kind"] not in kinds:
                return None
            lines = file.read().splitlines()
        events = tuple(_events(lines))
        return Record(
            id=head["run"],
            kind=head["kind"],
            title=head["title"],
            options=head["options"],
            created=head["created"],
            pid=head["pid"],
            events=events,
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None


def _events(lines: list[str]) -> Iterator[Event]:
    """Events up to the first line that is none: what follows a torn line cannot be trusted to be whole."""
    for line in lines:
        try:
            yield decode(json.loads(line))
        except ValueError:
            return


def _close(file: Any) -> None:
    with contextlib.suppress(OSError):  # closing flushes, and the disk is full
        file.close()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def age(seconds: float) -> str:
    """A time (seconds since the epoch) as "14:03" today, else "2026-11-23 14:03"."""
    then = time.localtime(seconds)
    today = time.localtime()
    same = then[:3] == today[:3]
    return time.strftime("%H:%M" if same else "%Y-%m-%d %H:%M", then)
