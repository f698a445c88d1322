"""A verdict in the reader's words: cells of a table, and lines that say what it rests on and what to do next."""

from __future__ import annotations

import re
from collections.abc import Sequence

from . import saying
from .claims import TIMES, Claim
from .lessons import CLAIMS
from .progress import Prediction, predictions
from .verdicts import JUDGED, MISSING, NOT_PREDICTED, RIGHT, WIDE, Verdict


def cells(found: Sequence[Verdict]) -> list[list[str]]:
    """A line for every claim, the header first."""
    return [[str(each) for each in saying.HEAD], *map(_cells, found)]


def listed() -> list[list[str]]:
    """Every question of the course with what was predicted, the header first."""
    kept = predictions()
    rows = [
        [claim.id, str(claim.name), _number(claim, kept[claim.id].value) if claim.id in kept else "",
         " · ".join(f"{name}: {text}" for name, text in claim.reasons.items())]
        for claim in CLAIMS.values()
    ]  # fmt: skip
    return [[str(each) for each in saying.LIST_HEAD], *rows]


def locked(claim: Claim, kept: Prediction, *, is_new: bool, when: str) -> list[str]:
    """What is said of a prediction."""
    reason = "" if kept.because is None else saying.BECAUSE.of(reason=claim.reasons[kept.because])
    said = saying.LOCKED_NOW if is_new else saying.KEPT
    lines = [said.of(when=when, name=claim.name, value=f"{kept.value:g}", unit=claim.unit, because=reason)]
    if kept.because is None and claim.reasons:
        lines.append(str(saying.NO_REASON))
    return [*lines, (saying.READ_IT if claim.published else saying.RUN_IT).of(run=claim.run)]


def said(found: Sequence[Verdict]) -> list[str]:
    """All that is said of a lesson; of what was not predicted yet, the next question only."""
    open_ones = [verdict for verdict in found if verdict.why == NOT_PREDICTED]
    return [line for verdict in found if verdict not in open_ones[1:] for line in lines(verdict)]


def lines(verdict: Verdict) -> list[str]:
    """What a verdict says, one line for the number and one for the reason."""
    claim, evidence, kept = CLAIMS[verdict.claim], verdict.evidence, verdict.prediction
    if verdict.state not in JUDGED or evidence is None or evidence.value is None or kept is None:
        return [_unjudged(claim, verdict)]
    filled = {
        "name": claim.name,
        "value": _number(claim, kept.value),
        "measured": _number(claim, evidence.value),
        "tolerance": _tolerance(claim),
    }
    said = (saying.NUMBER_RIGHT if verdict.state == RIGHT else saying.NUMBER_WRONG).of(**filled)
    is_speed = claim.unit is TIMES
    if is_speed and evidence.low is not None and evidence.high is not None:
        is_other_way = (kept.value > 1 and evidence.high < 1) or (kept.value < 1 and evidence.low > 1)
        said += str(saying.DIRECTION) if is_other_way else ""
    return [said, *_of_reason(claim, verdict)]


def score(lesson: int, found: Sequence[Verdict]) -> str:
    """How a lesson stands."""
    return saying.SCORE.of(
        lesson=lesson,
        all=len(found),
        right=sum(one.state == RIGHT for one in found),
        asked=sum(bool(CLAIMS[one.claim].reasons) for one in found),
        reasons=sum(one.reason == RIGHT for one in found),
        open=sum(one.state not in JUDGED for one in found),
    )


def _of_reason(claim: Claim, verdict: Verdict) -> list[str]:
    evidence = verdict.evidence
    if not claim.reasons or evidence is None:
        return []
    if evidence.best is None:
        return [str(saying.REASON_UNKNOWN)]
    said = {RIGHT: saying.REASON_RIGHT, MISSING: saying.REASON_MISSING}.get(verdict.reason, saying.REASON_WRONG)
    return [said.of(why=claim.because[evidence.best].of(**evidence.told))]


def _unjudged(claim: Claim, verdict: Verdict) -> str:
    """Why there is no verdict, and what to do."""
    evidence = verdict.evidence
    why = "too noisy" if verdict.why == WIDE and not verdict.rounds else verdict.why
    run = str(claim.run)
    option = re.search(r"--(repeats|seeds) \d+", run)
    more = f"--{option[1]} {verdict.rounds}" if option and verdict.rounds else ""
    low, high = (None, None) if evidence is None else (evidence.low, evidence.high)
    return saying.WHY[why].of(
        name=claim.name,
        id=verdict.run,
        run=run,
        option=more,
        again=run.replace(option[0], more) if option and more else run,
        low="" if low is None else _number(claim, low),
        high="" if high is None else _number(claim, high),
        value="" if verdict.prediction is None else _number(claim, verdict.prediction.value),
    )


def _cells(verdict: Verdict) -> list[str]:
    claim, evidence, kept = CLAIMS[verdict.claim], verdict.evidence, verdict.prediction
    measured = interval = off = reason = ""
    if evidence is not None and evidence.value is not None:
        measured = _number(claim, evidence.value)
        if evidence.low is not None and evidence.high is not None:
            interval = f"{_figure(evidence.low)} – {_figure(evidence.high)}"
        if verdict.off is not None:
            off = f"{100 * verdict.off:.0f} %" if claim.is_ratio else _number(claim, verdict.off)
    if kept is not None and kept.because is not None:
        reason = f"{kept.because}: {saying.STATES[verdict.reason]}"
    predicted = "" if kept is None else _number(claim, kept.value)
    run = verdict.run or (str(saying.TABLE) if measured else "")
    return [str(claim.name), predicted, measured, interval, off, str(saying.STATES[verdict.state]), reason, run]


def _number(claim: Claim, value: float) -> str:
    return f"{_figure(value)}{claim.unit}"


def _figure(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _tolerance(claim: Claim) -> str:
    return f"{100 * claim.tolerance:.0f} %" if claim.is_ratio else _number(claim, claim.tolerance)
