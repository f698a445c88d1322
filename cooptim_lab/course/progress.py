"""What a student has foretold and what was found of it, in one file beside the record of runs: no server.

JSON lines, the first saying which version wrote them. It only grows: a prediction is never changed, a verdict never
taken back. Each write is whole or not there, and two notebooks that write at once wait for each other.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..runs import store
from . import saying

VERSION = 1
PREDICTED, FOUND = "prediction", "verdict"


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A number and a reason, before the run."""

    claim: str
    value: float
    because: str | None
    time: float = field(default_factory=time.time)
    """Seconds since the epoch, as in the record of runs."""


def place() -> Path:
    """The file."""
    return store.home() / "course.jsonl"


def predictions() -> dict[str, Prediction]:
    """By the claim's id.

    Raises
    ------
    InputError
        When the file cannot be read, or another version wrote it.
    """
    return _predictions(_read())


def verdicts() -> list[Mapping[str, Any]]:
    """All that were found, in their order.

    Raises
    ------
    InputError
        As `predictions`.
    """
    return [line for line in _read() if line["what"] == FOUND]


def keep(prediction: Prediction) -> Prediction:
    """Lock a prediction; the same one again changes nothing.

    Returns
    -------
    Prediction
        The one that is kept, with its time.

    Raises
    ------
    InputError
        When another is kept already, or the file cannot be read or written.
    """
    with _writing() as lines:
        if (kept := _predictions(lines).get(prediction.claim)) is None:
            lines.append({"what": PREDICTED, **asdict(prediction)})
            return prediction
    if (kept.value, kept.because) == (prediction.value, prediction.because):
        return kept
    raise InputError(
        saying.LOCKED.of(value=f"{kept.value:g}", when=store.age(kept.time), lesson=kept.claim.partition(".")[0])
    )


def keep_verdict(claim: str, found: Mapping[str, Any]) -> None:
    """Add what was found of a claim, unless that is what was found last.

    Raises
    ------
    InputError
        When the file cannot be read or written.
    """
    with _writing() as lines:
        of_claim = [line["found"] for line in lines if line["what"] == FOUND and line["claim"] == claim]
        if not of_claim or of_claim[-1] != json.loads(json.dumps(found)):
            lines.append({"what": FOUND, "claim": claim, "time": time.time(), "found": found})


def _predictions(lines: list[Mapping[str, Any]]) -> dict[str, Prediction]:
    kept: dict[str, Prediction] = {}
    for line in lines:
        if line["what"] == PREDICTED:
            fields = {name: line[name] for name in Prediction.__dataclass_fields__}
            kept.setdefault(fields["claim"], Prediction(**fields))  # the first counts, whatever was added by hand
    return kept


def _read() -> list[Mapping[str, Any]]:
    """All lines but the first; none where there is no file yet."""
    try:
        text = place().read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(saying.UNREADABLE.of(place=place(), why=_why(error))) from None
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            read = json.loads(line)
            if number == 1:
                version = read["course"]
            elif read["what"] in (PREDICTED, FOUND):
                _ = read["claim"], read["time"], read["value" if read["what"] == PREDICTED else "found"]
                found.append(read)
        except (ValueError, KeyError, TypeError):
            raise InputError(saying.UNREADABLE.of(place=place(), why=saying.LINE.of(number=number))) from None
        if number == 1 and version != VERSION:
            raise InputError(saying.OTHER_VERSION.of(place=place(), version=version, own=VERSION))
    return found


@contextmanager
def _writing() -> Iterator[list[Mapping[str, Any]]]:
    """The lines; those that were added are on disk afterwards, all or none."""
    try:
        place().parent.mkdir(parents=True, exist_ok=True)
        with place().with_suffix(".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lines = _read()
            before = len(lines)
            yield lines
            if len(lines) > before:
                told = [{"course": VERSION}, *lines]
                store.write(place(), "".join(f"{json.dumps(line)}\n" for line in told).encode())
    except OSError as error:
        raise InputError(saying.UNWRITABLE.of(place=place(), why=_why(error))) from None


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
