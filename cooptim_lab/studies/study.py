"""How a study is carried: many runs of one task, measured beside each other, as one Run of its own.

On a thread of its own, to the run's end whatever happens; rows that were measured before a stop are kept. What is
measured, and how often, the studies know: `rounds` (trainings beside each other) and `costs` (steps).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from ..data.datasets import digits
from ..errors import InputError, LabError, RunStopped
from ..ranks.job import give_values
from ..ranks.pool import RankPool
from ..ranks.shared import shared_pool
from ..runs import store
from ..runs.events import Event, Note, Phase, Started
from ..runs.run import Run
from ..task import Task
from ..training.spec import Spec


class Measurement(Protocol):
    """A row of a study."""

    def summary(self) -> dict[str, Any]:
        """As a JSON object."""
        ...


R = TypeVar("R", bound=Measurement)
S = TypeVar("S", bound=Spec)


class Study(Generic[R, S]):
    """A study on its thread.

    Parameters
    ----------
    task
        What is studied; the built-in digits when None.
    pool
        The ranks to use; this process's own when None.
    workers
        The most that it will ask for.
    **more
        What belongs to its title and options beside the spec.

    Attributes
    ----------
    rows
        What was measured so far.
    """

    def __init__(self, task: Task | None, spec: S, pool: RankPool | None, workers: int, **more: str) -> None:
        self.task, self.spec, self.pool = task or digits(), spec, pool or shared_pool()
        if not isinstance(self.task, Task):
            raise InputError(f"task is a {type(task).__name__}: give Task(model=..., data=...)")
        self.pool.reserve(workers)
        self._workers, self._options = workers, {**spec.options(), **more}
        title = " ".join([spec.way, *more.values()])
        self.run: Run[list[R]] = Run(spec.way, self._options, title=f"{title}: {self.task.name}")

    @property
    def rows(self) -> list[R]:
        raise NotImplementedError

    def measure(self) -> None:
        """All of it; a row is an event as soon as it is known."""
        raise NotImplementedError

    def start(self) -> Run[list[R]]:
        """Begin; returns at once."""
        store.keep(self.run)
        self.run.post(Started(way=self.spec.way, options=self._options, workers=self._workers))
        threading.Thread(target=self._carry, name=f"cooptim-{self.spec.way}", daemon=True).start()
        return self.run

    def _carry(self) -> None:
        self.run.begin()
        try:
            self.measure()
        except LabError as error:
            if isinstance(error, RunStopped) and self.rows:
                self._finish("stopped")
            else:
                self.run.fail(error)
        except Exception as error:  # noqa: BLE001 - a run must end, whatever happens; the error is its end
            self.run.fail(error)
        else:
            self._finish("done")

    def _finish(self, state: str) -> None:
        rows = self.rows
        self.run.finish(rows, state=state, summary={"rows": [row.summary() for row in rows]})

    def ask(self, program: Callable[..., Any], workers: int, *, is_cooperative: bool = False, **arguments: Any) -> Any:
        """What rank 0 returns of a program."""
        return self.ask_all(program, workers, is_cooperative=is_cooperative, **arguments)[0]

    def ask_all(
        self, program: Callable[..., Any], workers: int, *, is_cooperative: bool = False, **arguments: Any
    ) -> list[Any]:
        """What every rank returns of a program, whose events are heard by `forward`.

        `is_cooperative`: it looks at `context.stopping()`, because it takes long.
        """
        child: Run[list[Any]] = Run("call", {"workers": workers})
        child.log.listen(self.forward)
        self.pool.submit(child, program, arguments, workers=workers, finish=give_values, is_cooperative=is_cooperative)
        return self.await_child(child)

    def forward(self, event: Event) -> None:
        """Of a program's events, what the study shows."""
        self.pass_on(event)

    def await_child(self, child: Run[Any]) -> Any:
        """What a run of the study comes to; it is stopped with the study.

        Raises
        ------
        RunStopped
            When the study was asked to stop meanwhile.
        """
        self.run.on_stop(lambda level: child.stop())
        result = child.wait()
        if self.run.stop_level:
            raise RunStopped("stopped")
        return result

    def pass_on(self, event: Event) -> None:
        """Of a child's events, what every study shows as its own."""
        if isinstance(event, (Note, Phase)) and not (isinstance(event, Phase) and event.text == "running"):
            self.run.post(event)
