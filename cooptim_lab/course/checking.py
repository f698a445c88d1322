"""A lesson judged by the student's own runs; what was found is kept, and handed in as one file."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InputError
from ..hardware import detect
from ..hardware.describe import summary
from ..runs import store
from . import saying
from .claims import Claim
from .lessons import CLAIMS, LESSONS
from .progress import VERSION, keep_verdict, predictions, verdicts
from .verdicts import JUDGED, NOT_PREDICTED, RIGHT, Verdict, answered_before, judge

FORMAT = "cooptim_lab course"
"""By which an exported file is known."""


def check(claims: Sequence[Claim]) -> list[Verdict]:
    """Each claim's verdict, which is kept too.

    Raises
    ------
    InputError
        When what was predicted cannot be read, or what is found not be kept.
    """
    predicted = predictions()
    kinds = sorted({kind for claim in claims for kind in claim.kinds})
    records = store.records(kinds)
    found = []
    for claim in claims:
        verdict = judge(claim, predicted.get(claim.id), records)
        if verdict.why == NOT_PREDICTED and answered_before(claim, records) is not None:
            verdict = Verdict(claim=claim.id, state=verdict.state, why="late")
        if verdict.prediction is not None:
            keep_verdict(claim.id, verdict.summary())
        found.append(verdict)
    return found


def open_before(lesson: int) -> tuple[int, int, int] | None:
    """The lesson before this one, where it has questions without a verdict: its number, how many, of how many."""
    earlier = [number for number in LESSONS if number < lesson]
    if not earlier:
        return None
    judged = {line["claim"] for line in verdicts() if line["found"]["state"] in JUDGED}
    claims = LESSONS[earlier[-1]].claims
    missing = sum(claim.id not in judged for claim in claims)
    return (earlier[-1], missing, len(claims)) if missing else None


def export(place: Path, lessons: Sequence[int]) -> None:
    """One JSON file: every prediction with its time, every verdict with the run that it rests on, and the machine.

    Raises
    ------
    InputError
        When a file is there that is no such export, or it cannot be written.
    """
    if place.exists() and not is_export(place):
        raise InputError(saying.NOT_OURS.of(place=place))
    claims = [claim for number in lessons for claim in LESSONS[number].claims]
    found, of_lessons = check(claims), [claim.id for claim in claims]
    told = {
        "format": FORMAT,
        "version": VERSION,
        "cooptim_lab": __version__,
        "exported": time.time(),
        "machine": f"{summary(detect())} · {platform.node()}",
        "lessons": {str(number): _lesson(number, found) for number in lessons},
        "history": [line for line in verdicts() if line["claim"] in of_lessons],
    }
    try:
        store.write(place, json.dumps(told, indent=1, ensure_ascii=False).encode())
    except OSError as error:
        raise InputError(saying.NOT_EXPORTED.of(place=place, why=error.strerror or error)) from None


def is_export(place: Path) -> bool:
    """Whether a file is one that `export` wrote, and may be replaced by the next."""
    try:
        return bool(json.loads(place.read_text(encoding="utf-8"))["format"] == FORMAT)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _lesson(number: int, found: Sequence[Verdict]) -> dict[str, Any]:
    of_lesson = [verdict for verdict in found if CLAIMS[verdict.claim].lesson == number]
    return {
        "name": LESSONS[number].name.en,
        "questions": len(of_lesson),
        "numbers right": sum(verdict.state == RIGHT for verdict in of_lesson),
        "reasons right": sum(verdict.reason == RIGHT for verdict in of_lesson),
        "judged": sum(verdict.state in JUDGED for verdict in of_lesson),
        "verdicts": [{"name": CLAIMS[one.claim].name.en, **one.summary()} for one in of_lesson],
    }
