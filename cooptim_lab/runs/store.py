"""The record of runs on disk: one JSON-lines file per run, written while it goes on.

The first line says what the run is, every further line is an event. A file without an `Ended` event is a run whose
kernel went away. Nothing here draws or computes.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs  # the place that each system has for such files

from ..errors import InputError
from .events import Ended, Event, Note, decode, encode
from .run import Run

PLACE = "COOPTIM_HOME"
"""Environment variable: keep the record elsewhere."""


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


def directory() -> Path:
    """Where the record is kept."""
    return Path(os.environ.get(PLACE) or platformdirs.user_data_path("cooptim_lab")) / "runs"


def keep(run: Run[Any]) -> None:
    """Write a run's events to its file, from the first on, as they come. A disk that takes no more is told of, once."""
    head = {
        "run": run.id,
        "kind": run.kind,
        "title": run.title,
        "options": run.options,
        "created": run.created,
        "pid": os.getpid(),
    }
    path = directory() / f"{run.id}.jsonl"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("x", encoding="utf-8")
        file.write(json.dumps(head) + "\n")
    except OSError as error:
        run.post(Note(text=f"this run is not recorded: {error}"))
        return

    def write(event: Event) -> None:
        if file.closed:
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


def records() -> list[Record]:
    """Every run on disk, the newest first. A file that cannot be read is left out."""
    found = [record for path in directory().glob("*.jsonl") if (record := _read(path)) is not None]
    return sorted(found, key=lambda record: record.created, reverse=True)


def load(id: str) -> Record:
    """One run.

    Raises
    ------
    InputError
        When there is none of that id.
    """
    record = _read(directory() / f"{id}.jsonl") if id.isalnum() else None
    if record is None:
        raise InputError(f"there is no run {id}: %cooptim runs lists them")
    return record


def _read(path: Path) -> Record | None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        head = json.loads(lines[0])
        events = tuple(_events(lines[1:]))
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
