"""What a step of N workers is made of: what is computed, what is sent, what of that is hidden, who is waited for.

It takes max(computing, hidden communication) + dispatch + exposed communication + stragglers. Of what is sent a part
can go while gradients are still computed; what does not fit behind them is exposed like the rest. A step of many ends
with its slowest: the expected largest of N, not the mean.

Numbers in, numbers out, by numpy: a number or an array, whatever is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

BACKWARD = 2 / 3
"""Of computing, the part in which there are gradients to send: backward has two products of matrices where forward has
one (Goyal et al., "Accurate, large minibatch SGD", 2017, overlap so)."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Seconds of one step, by what they go to; numbers, or arrays of one length.

    Attributes
    ----------
    computing
        Of one worker, on average.
    waiting
        For the slowest.
    dispatch
        What no number of workers divides: updates that all make, calls that all wait for.
    exchange
        All that is sent, hidden or not.
    hidden
        Of it, what goes while gradients are computed.
    """

    computing: Any
    waiting: Any = 0.0
    dispatch: Any = 0.0
    exchange: Any = 0.0
    hidden: Any = 0.0

    @property
    def exposed(self) -> Any:
        """What is sent while nothing is computed."""
        return self.exchange - self.hidden

    @property
    def seconds(self) -> Any:
        """Of the whole step."""
        return self.computing + self.waiting + self.dispatch + self.exposed

    def parts(self) -> dict[str, Any]:
        """By name, what adds up to the step's seconds."""
        return {
            "computing": self.computing, "dispatch": self.dispatch, "exchanging": self.exposed, "waiting": self.waiting
        }  # fmt: skip


def hide(exchange: Any, computing: Any, share: float) -> Any:
    """Seconds of an exchange that are hidden: a share of it, as far as backward lasts."""
    return np.minimum(share * np.asarray(exchange, float), BACKWARD * np.asarray(computing, float))


def largest_of(workers: Any) -> np.ndarray:
    """How many standard deviations the largest of N normal values is expected above their mean; 0 for one.

    Blom's formula (Statistical Estimates and Transformed Beta-Variables, 1958), which is right to 5 %.
    """
    from scipy.special import ndtri

    n = np.asarray(workers, float)
    return np.where(n > 1, ndtri((n - 0.375) / (n + 0.25)), 0.0)


def expected_largest(seen: Sequence[float], workers: int) -> float:
    """The expected largest of N values drawn like those that were seen: Σ x₍ᵢ₎ [(i/n)ᴺ − ((i−1)/n)ᴺ].

    Of no assumed distribution; what was never seen is not expected either, however many workers there are.
    """
    values = np.sort(np.asarray(seen, float))
    ranks = np.arange(len(values) + 1) / len(values)
    return float(values @ np.diff(ranks**workers))
