"""The Run handle: one piece of work from start to result, and the append-only log of what happened in it.

A Run is written by whoever carries the work (a pool, a study) and read by everybody else. It knows neither.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from ..errors import LabError, RunStopped
from .events import Ended, Event, Output, Resumed, Unfinished

STATES = ("waiting", "running", "done", "stopped", "failed")
WAKE_SECONDS = 0.2  # a waiting main thread wakes so often, so that Ctrl-C is served at once on every platform

R = TypeVar("R")


class RunLog:
    """Events in the order they came. Appending wakes those who wait; nothing is ever removed.

    Of unfinished lines there is the present state only, beside the events: a progress bar has thousands.
    """

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._unfinished: dict[tuple[int | None, str], Unfinished] = {}
        self._changed = threading.Condition()
        self._listeners: list[Callable[[Event], None]] = []
        self._telling = threading.RLock()  # held while listeners are told, so that each hears everything in order

    def append(self, event: Event) -> None:
        """Record an event and tell the listeners, in the thread of the caller."""
        with self._telling:
            with self._changed:
                self._take(event)
                self._changed.notify_all()
            for listener in tuple(self._listeners):
                listener(event)

    def _take(self, event: Event) -> None:
        if isinstance(event, Unfinished):
            self._unfinished[event.rank, event.stream] = event
            return
        if isinstance(event, Output):
            self._unfinished.pop((event.rank, event.stream), None)
        elif isinstance(event, Ended | Resumed):
            self._unfinished.clear()
        self._events.append(event)

    def since(self, index: int) -> list[Event]:
        """The events from `index` on."""
        with self._changed:
            return self._events[index:]

    def unfinished(self) -> list[Unfinished]:
        """The lines that have no end yet, by rank and stream."""
        with self._changed:
            lines = [event for event in self._unfinished.values() if event.text.strip()]
        return sorted(lines, key=lambda event: (-1 if event.rank is None else event.rank, event.stream))

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every event, those that have been first."""
        with self._telling:
            for event in self.since(0):
                listener(event)
            self._listeners.append(listener)


class Run(Generic[R]):
    """A handle on work that goes on elsewhere.

    Attributes
    ----------
    id : str
        Short, random, unique among the runs kept on disk for all practical purposes.
    kind : str
        What it is: a way of training, or compare, speedup, ranks.
    options : Mapping[str, Any]
        What it was asked, as a JSON object.
    log : RunLog
        What happened so far.
    state : str
        One of `STATES`.
    """

    def __init__(self, kind: str, options: Mapping[str, Any], *, title: str = "", id: str = "") -> None:
        self.id, self.kind, self.options, self.title = id or new_id(), kind, dict(options), title or kind
        self.created = time.time()
        self.log = RunLog()
        self.state = "waiting"
        self.stop_level = 0
        self._result: R | None = None
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._on_stop: Callable[[int], None] | None = None

    # For readers.

    @property
    def ended(self) -> bool:
        """Whether it has come to an end, whichever."""
        return self._ended.is_set()

    @property
    def result(self) -> R | None:
        """What it gave, or None while it has given nothing."""
        return self._result

    @property
    def error(self) -> BaseException | None:
        """Why it failed, or None."""
        return self._error

    @property
    def aftermath(self) -> str:
        """What else is to be said of a run that was stopped: that ranks had to be replaced, say. Often empty."""
        end = self.log.since(0)[-1] if self.ended else None
        return end.message.removeprefix("stopped") if isinstance(end, Ended) and self.state == "stopped" else ""

    def join(self, timeout: float) -> bool:
        """Wait for the end, `timeout` seconds at the most; returns whether it has come. Raises nothing of the run's."""
        return self._ended.wait(timeout)

    def wait(self, timeout: float | None = None) -> R:
        """Wait for the end and return the result; of a training that was stopped, what was trained until then.

        Parameters
        ----------
        timeout
            Seconds to wait at the most.

        Raises
        ------
        TimeoutError
            When it goes on after `timeout`; it is not stopped by that.
        RunStopped
            When it was stopped before it had a result.
        LabError
            What made it fail: `InputError`, `RankFailure`, `PoolError`.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ended.wait(WAKE_SECONDS):
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"run {self.id} goes on after {timeout} s; run.stop() would end it")
        if self._error is not None:
            raise self._error
        if self._result is None and self.state == "stopped":
            raise RunStopped(f"run {self.id} was stopped before it had a result{self.aftermath}")
        return self._result  # type: ignore[return-value]

    def stop(self) -> None:
        """Ask it to end: after the step it is in, keeping what was trained. A second call interrupts, a third kills."""
        self.stop_level += 1
        if self._on_stop is not None:
            self._on_stop(self.stop_level)

    # For whoever carries the work.

    def on_stop(self, callback: Callable[[int], None]) -> None:
        """Call `callback(level)` at every `stop`, at once if one came already."""
        self._on_stop = callback
        if self.stop_level:
            callback(self.stop_level)

    def begin(self) -> None:
        """The work has begun."""
        self.state = "running"

    def post(self, event: Event) -> None:
        """Record an event; after the end, nothing is recorded any more."""
        if not self.ended:
            self.log.append(event)

    def finish(self, result: R | None, *, state: str = "done", summary: Mapping[str, Any] | None = None) -> None:
        """It ended with a result (`state` done, or stopped)."""
        self._end(result, None, Ended(state=state, summary=dict(summary or {})))

    def fail(self, error: BaseException) -> None:
        """It ended without one."""
        message = str(error) if isinstance(error, LabError) else f"{type(error).__name__}: {error}"
        state = "stopped" if isinstance(error, RunStopped) else "failed"
        self._end(
            None,
            None if state == "stopped" else error,
            Ended(state=state, message=message, traceback=getattr(error, "remote_traceback", None)),
        )

    def _end(self, result: R | None, error: BaseException | None, event: Ended) -> None:
        if self.ended:
            return
        self._result, self._error, self.state = result, error, event.state
        for line in self.log.unfinished():  # its rank was ended: what was seen of it stays
            self.log.append(Output(rank=line.rank, stream=line.stream, text=f"{line.text}\n"))
        self.log.append(event)
        self._ended.set()

    def __repr__(self) -> str:
        return f"<Run {self.id} {self.title}: {self.state}>"


def new_id() -> str:
    """Five letters and digits, easy to read out and to type."""
    return "".join(secrets.choice("abcdefghjkmnpqrstuvwxyz23456789") for _ in range(5))
