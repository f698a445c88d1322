"""From what a student types to a locked prediction: which question, which number, which reason, and not too late."""

from __future__ import annotations

import difflib
import math

from ..errors import InputError
from ..runs import store
from . import saying
from .claims import Claim
from .lessons import CLAIMS, LESSONS
from .progress import Prediction, keep, predictions
from .verdicts import answered_before


def find(given: str) -> Claim:
    """A claim by its id, or by its name in any language.

    Raises
    ------
    InputError
        Naming the nearest.
    """
    names = {name: claim for claim in CLAIMS.values() for name in (claim.id, claim.name.en, claim.name.zh)}
    plain = {_plain(name): claim for name, claim in names.items()}
    if (found := plain.get(_plain(given))) is not None:
        return found
    near = difflib.get_close_matches(given, names, n=1)
    raise InputError(saying.NO_CLAIM.of(given=given, near=saying.NEAR.of(near=near[0]) if near else ""))


def find_lesson(number: int) -> int:
    """A lesson's number, if there is one.

    Raises
    ------
    InputError
    """
    if number not in LESSONS:
        raise InputError(saying.NO_LESSON.of(given=number, lessons=", ".join(map(str, LESSONS))))
    return number


def predict(claim: Claim, number: str, because: str | None = None) -> tuple[Prediction, bool]:
    """Lock a prediction.

    Returns
    -------
    tuple
        The one that is kept, and whether it is a new one.

    Raises
    ------
    InputError
        For what is no number or no reason, where another prediction is locked, where a run has answered already, and
        where nothing can be kept.
    """
    value = read_number(claim, number)
    if because is not None and because not in claim.reasons:
        said = saying.NO_REASON_LIKE if claim.reasons else saying.NONE_TO_GIVE
        raise InputError(said.of(given=because, choices=", ".join(claim.reasons)))
    kept = predictions().get(claim.id)
    if kept is None and claim.kinds and (run := answered_before(claim, store.records(claim.kinds))) is not None:
        raise InputError(saying.TOO_LATE.of(id=run.id, when=store.age(run.created), next=_next(claim)))
    return keep(Prediction(claim=claim.id, value=value, because=because)), kept is None


def read_number(claim: Claim, given: str) -> float:
    """A number as people write it, its unit behind it or not.

    Raises
    ------
    InputError
    """
    text = given.strip()
    for unit in ("x", "%", claim.unit.en.strip(), claim.unit.zh.strip()):
        text = text.removesuffix(unit).strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(saying.NO_NUMBER.of(given=given, unit=str(claim.unit).strip()))
    if claim.is_ratio and value <= 0:
        raise InputError(saying.NOT_ABOVE_0.of(given=given))
    return value


def _next(claim: Claim) -> str:
    """What to do where a question is lost: the one after it in its lesson."""
    following = [one for one in LESSONS[claim.lesson].claims if one.id > claim.id]
    if not following:
        return saying.END_OF_LESSON.of(lesson=claim.lesson)
    return f'%cooptim predict "{following[0].name}"'


def _plain(text: str) -> str:
    return "".join(text.split()).casefold()
