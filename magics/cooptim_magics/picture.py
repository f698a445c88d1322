"""From a run's events to what the eye sees: the one fold that the live chart, the static figure and a reopened record
share.

A `Picture` is fed events and says at any moment which curves, which progress, which status line and which table stand
for the run. It draws nothing and waits for nothing.
"""

from __future__ import annotations

import math
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cooptim_lab.costs.formulas import CostRow
from cooptim_lab.costs.links import Calibration
from cooptim_lab.costs.work import Step
from cooptim_lab.hardware.ceilings import Ceiling
from cooptim_lab.runs.events import (
    Calibrated,
    Costed,
    Counted,
    Ended,
    Event,
    Foretold,
    Gauged,
    Measured,
    Note,
    Output,
    Phase,
    Points,
    Progress,
    Raced,
    Resumed,
    Sampled,
    Spent,
    Stale,
    Started,
)
from cooptim_lab.scaling.here import Figures, Simulated
from cooptim_lab.studies.rows import Row

from .curves import Curve, axis_labels, cost_curves, end_of_x, loss_curves, speedup_curves
from .pace import Pace
from .racing import race_curves
from .roofline import roofline_curves
from .sheets import score
from .simulating import simulation_bars, simulation_curves
from .tables import spent_verdict, step_parts
from .words import duration

SPENT = ("steps", "compute", "communication", "waiting", "sent")
ROUNDING = 1e-9


class Picture:
    """What a run looks like so far.

    Parameters
    ----------
    title
        The run's title.
    clock
        Seconds since the epoch, for the time that passes between events; left out, it stands at the last event.
    """

    def __init__(self, title: str, clock: Callable[[], float] | None = None) -> None:
        self.title, self._clock = title, clock
        self.kind = ""
        self.state = "waiting"
        self.options: Mapping[str, Any] = {}
        self.notes: list[str] = []
        self.remarks: list[str] = []  # how it was done, where that takes nothing away from it
        self.output: list[Output] = []
        self.rows: dict[str, Row] = {}
        self.spent: dict[int, Spent] = {}  # of every rank, in all
        self.costs: list[CostRow] = []
        self.links: Calibration | None = None
        self.simulated: list[Simulated] = []
        self.sampled: Figures | None = None
        self.real: tuple[Curve, ...] = ()  # trainings that stand beside what was simulated
        self.ceilings: dict[tuple[str, str, int, int], Ceiling] = {}
        self.step: Step | None = None
        self.raced: dict[tuple[str, str], Mapping[str, Any]] = {}  # plans by their texts; the proof's rows by title
        self.stale: Stale | None = None
        self.summary: dict[str, Any] = {}
        self.message = ""
        self.phase = ""
        self.version = 0  # grows with every change: a viewer redraws when it has another
        self._began, self._last, self._budget = 0.0, 0.0, ""  # what a tuning may take, beside its seconds
        self._pace = Pace()
        self._latest = 0.0  # epoch that was reported last
        self._lowest, self._highest = math.inf, -math.inf  # of all points, as they come: a long run has many
        self._points: dict[str, tuple[array[float], array[float]]] = defaultdict(lambda: (array("d"), array("d")))

    @classmethod
    def of(cls, title: str, events: Iterable[Event]) -> Picture:
        """The picture of a whole log."""
        picture = cls(title)
        picture.feed(events)
        return picture

    def feed(self, events: Iterable[Event]) -> None:
        """Take in what happened since the last time."""
        for event in events:
            self.version += not isinstance(event, Output)  # which no viewer draws
            self._last = event.time
            self._take(event)

    def _take(self, event: Event) -> None:
        match event:
            case Started():
                self.kind, self.options, self._began = event.way, event.options, event.time
                self._budget = f", budget {event.options['budget']:g} s" if "budget" in event.options else ""
            case Phase():
                self.phase, self.state, self._latest = event.text, "running", 0.0
            case Points():
                x, y = self._points[event.curve]
                x.extend(event.x)
                y.extend(event.y)
                finite = [value for value in event.y if math.isfinite(value)]
                self._lowest, self._highest = min([self._lowest, *finite]), max([self._highest, *finite])
                self._latest = max((self._latest, *event.x[-1:]))
            case Progress():
                self._pace.take(event)
            case Note():
                said = self.notes if event.is_doubt else self.remarks
                if event.text not in said:  # a run that goes on after a loss says some things again
                    said.append(event.text)
            case Output():
                self.output.append(event)
            case Spent():
                self._add(event)
            case Stale():
                self.stale = event
            case Resumed():
                self._go_back(event)
            case Measured():
                row = Row.from_summary(event.row)
                self.rows[row.title] = row
            case Calibrated():
                self.links = Calibration.from_summary(event.links)
            case Costed():
                self.costs.append(CostRow.from_summary(event.row))
            case Sampled():
                self.sampled = Figures.from_summary(event.figures)
            case Foretold():
                self.simulated.append(Simulated(**event.row))
            case Gauged():
                ceiling = Ceiling.from_summary(event.ceiling)
                self.ceilings[ceiling.key] = ceiling
            case Counted():
                self.step = Step.from_summary(event.step)
            case Raced():
                self.raced[event.row.get("title", ""), event.row["plan"]] = event.row
            case Ended():
                self.state, self.message, self.summary = event.state, event.message, dict(event.summary)

    def _add(self, event: Spent) -> None:
        rank = event.rank or 0
        known = self.spent.get(rank)
        sums = {name: getattr(event, name) + (getattr(known, name) if known else 0) for name in SPENT}
        self.spent[rank] = Spent(rank=rank, time=event.time, **sums)

    def _go_back(self, event: Resumed) -> None:
        """Forget what was told of steps that are made again."""
        self.spent.clear()
        self._latest = event.epoch
        for x, y in self._points.values():
            kept = sum(each <= event.epoch + ROUNDING for each in x)
            del x[kept:], y[kept:]

    # What there is to see.

    @property
    def curves(self) -> list[Curve]:
        """The curves, the most telling first."""
        if self.kind == "speedup":
            return speedup_curves(self.rows.values())
        if self.kind == "costs":
            return cost_curves(self._points, self.costs)
        if self.simulated:
            return [*simulation_curves(self.simulated), *self.real]
        if self.is_roofline:
            return roofline_curves(self.ceilings.values(), self.step)
        if self.raced:
            return race_curves(list(self.raced.values()))
        return loss_curves(self._points)

    @property
    def labels(self) -> dict[str, Any]:
        """Of the axes; and where x will end, 0 where that is not known."""
        return {**axis_labels(self.kind), "x_end": end_of_x(self.kind, self.options)}

    @property
    def is_roofline(self) -> bool:
        """Whether it shows what a machine can do: both axes are logarithmic then."""
        return self.kind == "ceilings"

    @property
    def is_logarithmic_in_x(self) -> bool:
        """Whether x is read on a logarithmic axis."""
        return self.is_roofline or self.kind == "simulate"

    @property
    def is_logarithmic(self) -> bool:
        """Whether y is better read on a logarithmic axis: losses, where all are positive and over a decade apart."""
        if self.is_logarithmic_in_x:
            return True
        return self.kind != "speedup" and self._lowest > 0 and self._highest > 10 * self._lowest

    @property
    def fraction(self) -> float | None:
        """The part that is done, by the rank that is furthest behind; None while unknown."""
        if self.state == "done":
            return 1.0
        return self._pace.fraction

    @property
    def status(self) -> str:
        """One line: what it is doing, how far it is, for how long, or what it gave. Why it failed is `reason`."""
        if self.state in ("waiting", "running"):
            now = self._last if self._clock is None else self._clock()
            spent = (duration(now - self._began) if self._began else "") + (self._budget or self._pace.left(now))
            doing = "" if self.phase == self.state else self.phase or "waiting for the ranks"
            parts = (doing, self._where(), spent, self.age)
            return " · ".join(part for part in parts if part)
        return "" if self.state == "failed" else score(self)

    @property
    def reason(self) -> str:
        """Why it failed, in one line; empty where it did not."""
        return " ".join(self.message.split()) if self.state == "failed" else ""

    @property
    def sentence(self) -> str:
        """State, status and reason, for a reader who sees none of them beside it."""
        words = [self.state if self.state not in ("done", "running", "waiting") else "", self.status, self.reason]
        return " · ".join(word for word in words if word) or self.state

    def _where(self) -> str:
        return (
            f"epoch {math.ceil(self._latest)}"
            if self._latest and self.kind not in ("speedup", "costs", "simulate")
            else ""
        )

    @property
    def age(self) -> str:
        """Of `async`: how old the weights were on which gradients were computed."""
        return f"gradients {self.stale.mean:.1f} steps old, {self.stale.most} at most" if self.stale else ""

    @property
    def bars(self) -> dict[str, Mapping[str, float]]:
        """By name, the seconds of a step by what they go to: of each rank, or of each way that was simulated."""
        if self.simulated:
            return simulation_bars(self.simulated)
        return {str(rank): step_parts(self.spent[rank]) for rank in sorted(self.spent)} if self.has_breakdown else {}

    @property
    def has_breakdown(self) -> bool:
        """Whether it is known where the time of several ranks went."""
        return len(self.spent) > 1

    @property
    def verdict(self) -> str:
        """Why it is not faster, in a line; empty where that is not known."""
        return spent_verdict(self.spent)
