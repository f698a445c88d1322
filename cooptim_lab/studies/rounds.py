"""Trainings of one task, one after the other, interleaved over rounds: what disturbs the machine disturbs all alike."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..comm.context import Context
from ..errors import InputError, RunStopped
from ..hardware.load import Disturbance
from ..ranks.pool import RankPool
from ..runs.events import Beside, Event, Measured, Note, Phase, Points, Progress
from ..runs.result import Result
from ..runs.run import Run
from ..task import Task
from ..training.spec import Baseline, Spec
from ..ways import launch
from .intervals import confidence
from .quiet import Surroundings, disturbed, throttled
from .rows import BUSY, Row, measure, no_gain
from .study import Study

Later = Callable[[Mapping[str, list[Result]]], Spec]
"""A way that depends on what the ways before it came to, by title."""
Ways = Sequence[tuple[str, Spec | Later]]
"""Titles and what is trained under them; the baseline is the first."""


@dataclass(frozen=True)
class Round:
    """Each way once, or those that have come to their end so far."""

    results: Mapping[str, Result]
    seen: Disturbance
    disturbed: str
    """By what, or nothing."""


class Rounds(Study[Row, Spec]):
    """Every way in every round, a row for each as soon as it stands beside a baseline.

    Every second round goes in the opposite order: what comes with the place in a round (a machine that grows slower,
    what the one before has left in memory) widens the interval of a speedup then, and does not shift it.

    A round that others disturbed is done again when the machine is quiet, at most as many as were asked for.
    """

    keeps_others = True
    """Whether the other ways go on where one of them refuses the network."""

    def __init__(
        self, task: Task | None, spec: Spec, ways: Ways, repeats: int, pool: RankPool | None, **more: str
    ) -> None:
        super().__init__(task, spec, pool, max(way.workers for _, way in ways if isinstance(way, Spec)), **more)
        self.ways, self.repeats = ways, repeats
        self.around = Surroundings(is_here=self.pool.launch.is_here)
        self._rounds: dict[int, Round] = {}
        self._again = 0
        self._rows: dict[str, Row] = {}
        self._done = 0
        self._told: set[tuple[str, str]] = set()

    @property
    def rows(self) -> list[Row]:
        return [self._rows[title] for title, _ in self.ways if title in self._rows]

    def of_round(self, spec: Spec, number: int) -> Spec:
        """What is trained in a round, the first being number 1."""
        return spec

    def conclusions(self) -> list[str]:
        """What the reader of the rows should know, once they are whole."""
        counted = sum(not one.disturbed for one in self._rounds.values())
        lost, said = self.repeats - counted, throttled(one.seen for one in self._rounds.values())
        notes = [said] if said else []
        if any(row.trouble == BUSY for row in self.rows):
            again = ", also when done again" if self._again else ""
            text = f"busy: {lost} of {self.repeats} rounds were disturbed{again}, so there is no P"
            return [*notes, f"{text}: run it when the machine is quiet"]
        if lost:
            notes.append(f"{lost} of {self.repeats} rounds were disturbed: their seconds do not count")
        notes.extend(filter(None, map(no_gain, self.rows)))
        held = f"holds the true median with probability {confidence(counted):.2f}"
        alone = "one round: how far another would lie from it is not known; --repeats 5 shows it"
        return [*notes, f"the range of {counted} rounds {held}" if counted > 1 else alone]

    def measure(self) -> None:
        self._find_ranks()
        self._await_quiet()
        for number in range(1, self.repeats + 1):
            self._do(number)
        while (number := self._disturbed()) and self._again < self.repeats and self._await_quiet():
            self._again += 1
            self._do(number)
        for text in self.conclusions():
            self.run.post(Note(text=text))

    def _do(self, number: int) -> None:
        """One round, or one again."""
        is_first = not self._rounds
        where = f"round {number} of {self.repeats}" if self.repeats > 1 else "the round"
        where = f"{where} again: " if number in self._rounds else f"{where}: " if self.repeats > 1 else ""
        self._find_ranks()
        self.around.begin()
        fresh: dict[str, Result] = {}
        for title, way in self.ways[:: 1 if number % 2 else -1]:
            if title in self._rows and not self._rows[title].repeats:  # it was refused
                self._done += 1
                continue
            self.run.post(Phase(text=f"{where}{title}"))
            spec = way if isinstance(way, Spec) else way(self._so_far(fresh))
            try:
                fresh[title] = self._train(title, self.of_round(spec, number), is_first=is_first)
            except InputError as error:
                if title == self.ways[0][0] or not self.keeps_others:
                    raise
                self._refuse(title, spec, error)
            self._done += 1
            if is_first and title in fresh:
                self._keep(number, fresh)
                self._show([title])
        if len(fresh) == 1 < len(self.ways):
            raise InputError(next(row.warnings[0] for row in self.rows if not row.repeats))
        if not is_first:  # together: a row of two rounds beside a baseline of three would not fit
            self._keep(number, fresh)
        self._tell_what_was_seen(number)
        self._show(self._rounds[number].results, all_of_them=not is_first)

    def _so_far(self, fresh: Mapping[str, Result]) -> dict[str, list[Result]]:
        """All results, by title."""
        rounds = [one.results for one in self._rounds.values()] or [fresh]
        return {title: [one[title] for one in rounds if title in one] for title, _ in self.ways}

    def _keep(self, number: int, fresh: Mapping[str, Result]) -> None:
        seen = self.around.so_far()
        results = {title: fresh[title] for title, _ in self.ways if title in fresh}
        self._rounds[number] = Round(results, seen, disturbed(seen, list(results.values()), self.pool.cpus))

    def _tell_what_was_seen(self, number: int) -> None:
        one = self._rounds[number]
        self.run.post(Beside(round=number, why=one.disturbed, **asdict(one.seen)))

    def _disturbed(self) -> int:
        """The first round whose seconds do not count, or 0."""
        return next((number for number, one in self._rounds.items() if one.disturbed), 0)

    def _refuse(self, title: str, spec: Spec, error: InputError) -> None:
        self._rows[title] = Row.refused(spec.way, title, spec.workers, str(error))
        self.run.post(Measured(row=self._rows[title].summary()))

    def _show(self, titles: Iterable[str], *, all_of_them: bool = True) -> None:
        """Their rows so far; or those only that have changed, as what is known of a round is known at its end."""
        first, rounds = self.ways[0][0], list(self._rounds.values())
        baseline, why = [one.results[first] for one in rounds], [one.disturbed for one in rounds]
        for title in titles:
            results = [one.results[title] for one in rounds]
            row = measure(title, results, baseline, cpus=self.pool.cpus, disturbed=why)
            if all_of_them or row != self._rows[title]:
                self._rows[title] = row
                self.run.post(Measured(row=row.summary()))

    def _await_quiet(self) -> bool:
        def tell(said: str) -> None:
            if self.run.stop_level:
                raise RunStopped("stopped")
            self.run.post(Phase(text=f"{said}: waiting for quiet"))

        return self.around.await_quiet(tell)

    def _find_ranks(self) -> None:
        """Which processes are the ranks'; they are started if there are none, before any clock."""
        self.around.ranks = self.ask_all(run_tell_pid, self._workers)

    def forward(self, event: Event) -> None:
        """Of such a question, what is done; what is to be noted the trainings will note."""
        if isinstance(event, Phase):
            self.pass_on(event)

    def _train(self, title: str, spec: Spec, *, is_first: bool) -> Result:
        child = launch(self.task, spec, pool=self.pool, record=False)

        def forward(event: Event) -> None:
            """Progress over all, notes once, and in the first round the curves."""
            if isinstance(event, Progress):
                if event.rank == 0:  # one rank tells how far the whole is; all would make it go back and forth
                    rounds = self.repeats + self._again
                    done, total = self._done + event.done / max(1, event.total), rounds * len(self.ways)
                    self.run.post(Progress(done=round(done * 1000), total=total * 1000))
            elif isinstance(event, Points) and event.curve == "held-out loss" and is_first:
                self.run.post(Points(rank=event.rank, curve=f"{title} · {event.curve}", x=event.x, y=event.y))
            elif not isinstance(event, Note) or self._is_new(title, event):
                self.pass_on(event)

        child.log.listen(forward)
        result = self.await_child(child)
        if result.state != "done":
            raise RunStopped("stopped")
        return result

    def _is_new(self, title: str, note: Note) -> bool:
        """Whether no round of this way has said it yet, be it with other figures."""
        said = title, re.sub(r"\d[\d.,]*", "#", note.text)
        is_new = said not in self._told
        self._told.add(said)
        return is_new


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


# On a rank.


def run_tell_pid(context: Context) -> int:
    """Its process."""
    return os.getpid()
