"""When a job has begun: what tells a rank that died at rest from one that its program has ended.

Every rank of the launch says so (`wire.Begun`) as soon as it hears of the job, before it runs it, and also one that has
no part in it. What ranks print and note is held back until all have, about a millisecond; the points of curves are
not, and are told to be void (`Resumed`) where they were for nothing. So a rank that is lost without having said so died
at rest: nothing that the user has seen of the job stays, and it can be run again as if it had never been. A program
that ends its own rank, be it in its first line, had begun there.

What follows from a loss is not decided here.
"""

from __future__ import annotations

from collections.abc import Collection, Set

from ..runs.events import Event, Note, Output, Resumed, Unfinished
from ..runs.run import Run


class Beginning:
    """Of one job on so many ranks, and what its run is not shown before."""

    def __init__(self, run: Run, ranks: int) -> None:
        self._run, self._ranks = run, ranks
        self._begun: set[int] = set()
        self._held: list[tuple[int | None, Output | Unfinished | Note]] = []
        self._has_reported = False

    def on(self, rank: int) -> None:
        """It has begun on a rank."""
        self._begun.add(rank)
        if len(self._begun) == self._ranks:
            self.show_held()

    def never_on(self, gone: Set[int]) -> list[int]:
        """Those among ranks that are gone which died at rest."""
        return sorted(gone - self._begun)

    def show(self, rank: int | None, event: Event) -> None:
        """Post an event to the run; what is printed or noted, now or when the job has begun."""
        if isinstance(event, Output | Unfinished | Note) and len(self._begun) < self._ranks:
            self._held.append((rank, event))
            return
        self._has_reported = True
        self._run.post(event)

    def show_held(self, died: Collection[int] = ()) -> None:
        """What was held back. Where ranks have died at rest only their last words, which cannot be the job's own."""
        for rank, event in self._held:
            if not died or rank in died:
                self._run.post(event)
        self._held.clear()
        if died and self._has_reported:
            self._run.post(Resumed(rank=0, step=0, epoch=0.0))
