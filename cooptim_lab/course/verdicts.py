"""What comes of a prediction: right, wrong, noisy (the data cannot judge) or missing (nothing has answered yet).

Judged by the error, and by whether the claim survives the interval that the run measured. The claim is a band round the
predicted number, as wide as the claim's tolerance; see `decide`. Of all runs that began after the prediction the first
counts that can judge, so that nobody measures until it fits. Nothing here reads files or chooses words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..runs.store import Record
from ..studies.intervals import rounds_to_show
from .claims import Claim, Evidence
from .progress import Prediction

RIGHT, WRONG, NOISY, MISSING = "right", "wrong", "noisy", "missing"
JUDGED = (RIGHT, WRONG)

NOT_PREDICTED, NOT_RUN, ANOTHER, RUNNING = "not predicted", "not run", "another", "running"
ONE_ROUND, WIDE = "one round", "wide"
"""Why there is no judgement, beside the troubles of `readings` (busy, refused, unfinished, version)."""
BUSY = "busy"
ROUNDING = 1e-9
"""A number that is off by just the tolerance is right, also where its last bit is not."""
FEWEST, MOST = 9, 49
"""Rounds that are asked for where the data cannot judge; more than the most is no advice, the machine is too noisy."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Of one claim.

    Attributes
    ----------
    state, reason
        Of the number, and of the reason.
    why
        Of noisy and missing.
    run
        The run's id that it rests on; of a published table empty.
    off
        By how much the number was off: of a ratio as a factor less 1 (0.25: 25 % too much, or the truth 25 % more), of
        a difference in the unit. None where nothing was measured.
    rounds
        That would let the data judge; 0 where no number of them is known to.
    """

    claim: str
    state: str
    reason: str = MISSING
    why: str = ""
    prediction: Prediction | None = None
    evidence: Evidence | None = None
    run: str = ""
    began: float | None = None
    off: float | None = None
    rounds: int = 0

    def summary(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def judge(claim: Claim, prediction: Prediction | None, records: Sequence[Record]) -> Verdict:
    """What the student's own runs say of a prediction.

    Parameters
    ----------
    records
        Runs in any order; which of them answer, the claim knows.
    """
    if prediction is None:
        return Verdict(claim=claim.id, state=MISSING, why=NOT_PREDICTED)
    if claim.published is not None:
        return _of_run(claim, prediction, claim.published(), None)
    found: list[Verdict] = []
    for record, evidence in _answers(claim, records):
        if record.created <= prediction.time:
            continue
        if record.state == "running":
            found.append(Verdict(claim=claim.id, state=MISSING, why=RUNNING, prediction=prediction, run=record.id))
            continue
        verdict = _of_run(claim, prediction, evidence, record)
        if verdict.state in JUDGED:
            return verdict
        found.append(verdict)
    # The newest that measured anything says more than one that failed after it.
    noisy = [verdict for verdict in found if verdict.state == NOISY]
    return (noisy or found or [_missing(claim, prediction, records)])[-1]


def answered_before(claim: Claim, records: Iterable[Record]) -> Record | None:
    """A run that has told the answer already, or is about to: a prediction comes too late."""
    for record, evidence in _answers(claim, records):
        if record.state == "running" or evidence.value is not None:
            return record
    return None


def decide(claim: Claim, value: float, evidence: Evidence) -> str:
    """Right, wrong or noisy, of a number and what was measured.

    The band round the number and the measured interval either have nothing in common (wrong), or the interval lies
    within the band (right), or the data cannot say (noisy): unless the interval is so narrow, no wider than the
    tolerance, that another run would not say anything else: then the error alone decides.
    """
    assert evidence.value is not None
    within = error(claim, value, evidence.value) <= claim.tolerance + ROUNDING
    if evidence.is_exact:
        return RIGHT if within else WRONG
    if evidence.low is None or evidence.high is None:
        return NOISY
    low, high = band(claim, value)
    if evidence.high < low or evidence.low > high:
        return WRONG
    if low <= evidence.low and evidence.high <= high:
        return RIGHT
    if _width(claim, evidence.low, evidence.high) > _width(claim, 1.0, 1.0 + claim.tolerance):
        return NOISY
    return RIGHT if within else WRONG


def band(claim: Claim, value: float) -> tuple[float, float]:
    """The numbers that the claim counts as the predicted one."""
    if claim.is_ratio:
        return value / (1 + claim.tolerance), value * (1 + claim.tolerance)
    return value - claim.tolerance, value + claim.tolerance


def error(claim: Claim, value: float, truth: float) -> float:
    """How far off: see `Verdict.off`. Of a ratio, 2 for 1 and 1 for 2 are both off by 1; of one that is 0, for ever."""
    if not claim.is_ratio:
        return abs(value - truth)
    return max(value / truth, truth / value) - 1 if min(value, truth) > 0 else math.inf


def _answers(claim: Claim, records: Iterable[Record]) -> Iterable[tuple[Record, Evidence]]:
    """The runs that answer a claim, the oldest first, with what they say."""
    if claim.read is None:
        return
    for record in sorted(records, key=lambda record: record.created):
        if record.kind in claim.kinds and (evidence := claim.read(record)) is not None:
            yield record, evidence


def _missing(claim: Claim, prediction: Prediction, records: Sequence[Record]) -> Verdict:
    """Nothing was run, or something else, which is named."""
    others = [one for one in records if one.kind in claim.kinds and one.created > prediction.time]
    newest = max(others, key=lambda record: record.created, default=None)
    why, run = (NOT_RUN, "") if newest is None else (ANOTHER, newest.id)
    return Verdict(claim=claim.id, state=MISSING, why=why, prediction=prediction, run=run)


def _of_run(claim: Claim, prediction: Prediction, evidence: Evidence, record: Record | None) -> Verdict:
    run, began = ("", None) if record is None else (record.id, record.created)
    if evidence.value is None:
        state = NOISY if evidence.trouble == BUSY else MISSING
        return Verdict(
            claim=claim.id, state=state, reason=state if prediction.because else MISSING, why=evidence.trouble,
            prediction=prediction, evidence=evidence, run=run, began=began,
        )  # fmt: skip
    state = decide(claim, prediction.value, evidence)
    why = "" if state in JUDGED else ONE_ROUND if evidence.low is None else WIDE
    off = error(claim, prediction.value, evidence.value)
    return Verdict(
        claim=claim.id,
        state=state,
        reason=_of_reason(prediction, evidence),
        why=why,
        prediction=prediction,
        evidence=evidence,
        run=run,
        began=began,
        off=off if math.isfinite(off) else None,
        rounds=_rounds(claim, evidence) if why else 0,
    )


def _of_reason(prediction: Prediction, evidence: Evidence) -> str:
    if prediction.because is None:
        return MISSING
    if evidence.best is None:
        return NOISY
    return RIGHT if prediction.because == evidence.best else WRONG


def _width(claim: Claim, low: float, high: float) -> float:
    if not claim.is_ratio:
        return high - low
    return math.log(high / low) if low > 0 and math.isfinite(high) else math.inf


def _rounds(claim: Claim, evidence: Evidence) -> int:
    """So many that the interval is no wider than the tolerance, at the noise that was seen; 0: too many."""
    half = math.sqrt(1 + claim.tolerance) if claim.is_ratio else math.exp(claim.tolerance / 2)
    needed = FEWEST if evidence.noise is None else rounds_to_show(half - 1, evidence.noise)
    rounds = max(FEWEST, needed, evidence.rounds + 2)
    return rounds if rounds <= MOST else 0
