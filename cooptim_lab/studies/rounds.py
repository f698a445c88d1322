"""Trainings of one task, one after the other, interleaved over rounds: what disturbs the machine disturbs all alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import psutil

from ..errors import RunStopped
from ..ranks.pool import RankPool
from ..runs.events import Event, Measured, Note, Phase, Points, Progress
from ..runs.result import Result
from ..runs.run import Run
from ..task import Task
from ..training.spec import Baseline, Spec
from ..ways import launch
from .rows import Row, confidence, measure
from .study import Study

Later = Callable[[Mapping[str, list[Result]]], Spec]
"""A way that depends on what the ways before it came to, by title."""
Ways = Sequence[tuple[str, Spec | Later]]
"""Titles and what is trained under them; the baseline is the first."""
BUSY_SECONDS, BUSY_SHARE = 0.2, 0.25
"""How long to look at the machine before a study, and from which share of its CPUs on others disturb it."""


class Rounds(Study[Row, Spec]):
    """Every way in every round, a row for each as soon as it stands beside a baseline."""

    def __init__(
        self, task: Task | None, spec: Spec, ways: Ways, repeats: int, pool: RankPool | None, **more: str
    ) -> None:
        super().__init__(task, spec, pool, max(way.workers for _, way in ways if isinstance(way, Spec)), **more)
        self.ways, self.repeats = ways, repeats
        self._results: dict[str, list[Result]] = {title: [] for title, _ in ways}
        self._rows: dict[str, Row] = {}
        self._done = 0

    @property
    def rows(self) -> list[Row]:
        return list(self._rows.values())

    def of_round(self, spec: Spec, number: int) -> Spec:
        """What is trained in a round, the first being number 1."""
        return spec

    def conclusions(self) -> list[str]:
        """What the reader of the rows should know, once they are whole."""
        held = f"holds the true median with probability {confidence(self.repeats):.2f}"
        alone = "one round: how far another would lie from it is not known; --repeats 5 shows it"
        return [f"the range of {self.repeats} rounds {held}" if self.repeats > 1 else alone]

    def measure(self) -> None:
        self._look_at_the_machine()
        for number in range(1, self.repeats + 1):
            for title, way in self.ways:
                where = f"round {number} of {self.repeats}: " if self.repeats > 1 else ""
                self.run.post(Phase(text=f"{where}{title}"))
                spec = way if isinstance(way, Spec) else way(self._results)
                self._results[title].append(self._train(title, self.of_round(spec, number), is_first=number == 1))
                self._done += 1
                if number == 1:
                    self._show([title])
            if number > 1:  # together: a row of two rounds beside a baseline of three would not fit
                self._show(self._results)
        for text in self.conclusions():
            self.run.post(Note(text=text))

    def _look_at_the_machine(self) -> None:
        busy = psutil.cpu_percent(interval=BUSY_SECONDS) / 100
        if busy > BUSY_SHARE and not self.pool.is_busy:
            said = f"other programs use {100 * busy:.0f} % of this machine's CPUs: do not trust the seconds"
            self.run.post(Note(text=said))

    def _show(self, titles: Iterable[str]) -> None:
        baseline = self._results[self.ways[0][0]]
        for title in titles:
            self._rows[title] = measure(title, self._results[title], baseline, cpus=self.pool.cpus)
            self.run.post(Measured(row=self._rows[title].summary()))

    def _train(self, title: str, spec: Spec, *, is_first: bool) -> Result:
        child = launch(self.task, spec, pool=self.pool, record=False)

        def forward(event: Event) -> None:
            """Progress over all, notes, and in the first round the curves."""
            if isinstance(event, Progress):
                if event.rank == 0:  # one rank tells how far the whole is; all would make it go back and forth
                    done, total = self._done + event.done / max(1, event.total), self.repeats * len(self.ways)
                    self.run.post(Progress(done=round(done * 1000), total=total * 1000))
            elif isinstance(event, Points) and event.curve == "held-out loss" and is_first:
                self.run.post(Points(rank=event.rank, curve=f"{title} · {event.curve}", x=event.x, y=event.y))
            else:
                self.pass_on(event)

        child.log.listen(forward)
        result = self.await_child(child)
        if result.state != "done":
            raise RunStopped("stopped")
        return result


def start_rounds(
    task: Task | None,
    spec: Spec,
    ways: Ways,
    repeats: int,
    pool: RankPool | None,
    *,
    plan: type[Rounds] = Rounds,
    **more: str,
) -> Run[list[Row]]:
    """Begin such a study; returns at once. `plan` says what differs from round to round."""
    return plan(task, spec, ways, repeats, pool, **more).start()


def derive(kind: type[Spec], study: Spec, **more: Any) -> Spec:
    """The spec of one training, with the options that it shares with the study."""
    shared = {item.name: getattr(study, item.name) for item in fields(kind) if hasattr(study, item.name)}
    if kind is Baseline:
        shared.pop("workers")
    return kind(**{**shared, **more})
