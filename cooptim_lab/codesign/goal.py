"""What a training has to reach so that its seconds count: the default's own score, less what may be given away."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..runs.result import Result

ACCURACY = "accuracy"


@dataclass(frozen=True)
class Goal:
    """A score to reach.

    Attributes
    ----------
    value
        Of an accuracy at least, of a loss at most.
    is_accuracy
        Which of the two is looked at. A metric of the user's own may be better when it is higher or lower: then it is
        the loss.
    """

    value: float
    is_accuracy: bool

    def seconds(self, result: Result) -> float:
        """Of training until the first epoch that has reached it; infinite where none has."""
        for _, seconds, loss, metric in result.path:
            if metric >= self.value if self.is_accuracy else loss <= self.value:
                return seconds
        return math.inf

    def __str__(self) -> str:
        return f"accuracy {100 * self.value:.1f} %" if self.is_accuracy else f"loss {self.value:.4g}"


def set_goal(results: Sequence[Result], allowance: float) -> Goal:
    """From trainings of the default over seeds: their median last score, less the allowance.

    Parameters
    ----------
    allowance
        Of an accuracy so much of 1 (0.005: half a point), of a loss that part of it.
    """
    if results[0].metric_name == ACCURACY:
        return Goal(statistics.median(result.path[-1][3] for result in results) - allowance, True)
    return Goal(statistics.median(result.path[-1][2] for result in results) * (1 + allowance), False)


def read_allowance(text: str) -> float:
    """ "0.5%" is 0.005, and so is "0.005".

    Raises
    ------
    InputError
    """
    number, _, rest = text.strip().partition("%")
    try:
        value = float(number) / (100 if text.strip().endswith("%") else 1)
        if not rest and 0 <= value < 1:
            return value
    except ValueError:
        pass
    raise InputError(f"keep_accuracy = {text!r}: give what may be lost of it, as 0.5%")


def seconds_an_epoch(result: Result) -> float:
    """Of training: what the same rows cost, whatever a batch has."""
    epoch, seconds, _, _ = result.path[-1]
    return seconds / epoch
