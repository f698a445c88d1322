"""P of answers (inference) in smaller numbers: beside float32, in words. Never part of a training's P."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .figures import Figure, figure, in_words, interval_in_words


@dataclass(frozen=True)
class Answers:
    """Of one network in one kind of numbers, after training.

    Attributes
    ----------
    numbers
        bf16, int8.
    ratios
        Of each round, the seconds of all held-out answers over those in float32.
    metric, before
        In these numbers and in float32, on the held-out rows.
    why
        It could not be tried; ratios are empty then.
    """

    numbers: str
    ratios: tuple[float, ...]
    metric: float | None
    before: float
    metric_name: str
    why: str = ""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Answers:
        """What `cooptim_lab.inference` has measured of it."""
        return cls(
            row["numbers"], tuple(row["ratios"]), row.get("metric"), row["before"], row["metric_name"], row["why"]
        )

    @property
    def figure(self) -> Figure | None:
        """P of an answer."""
        return figure(self.ratios)

    @property
    def sentence(self) -> str:
        """In a line."""
        found = self.figure
        if found is None or self.metric is None:
            return f"answers in {self.numbers}: not tried, {self.why}"
        name, is_share = self.metric_name, self.metric_name == "accuracy"
        now, before = (f"{100 * each:.1f} %" if is_share else f"{each:.4g}" for each in (self.metric, self.before))
        score = f"held-out {name} {now}" + (f" instead of {before}" if now != before else ", as in float32")
        between = interval_in_words(found)
        told = "" if found.is_told_apart else ", no gain told apart from noise"
        return f"answers in {self.numbers}: P = {in_words(found)} ({between}) of float32's time{told}; {score}"

    def summary(self) -> dict[str, Any]:
        """As a JSON object."""
        found = self.figure
        figures = None if found is None else found.summary()
        return {"numbers": self.numbers, "figure": figures, "metric": self.metric, "why": self.why}
