"""The one training loop: epochs, batches, the clock, what is recorded, when to stop.

A way of training brings a `step`; what a step does (one process, N stacked networks, M shards) is not known here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..comm.context import Report
from ..errors import InputError
from ..preparing.seeds import derive
from ..runs.events import Event, Points, Progress
from .stepping import clip

Batch = TypeVar("Batch", contravariant=True)
Part = TypeVar("Part")


class Step(Protocol[Batch]):
    """Trains on one batch (in the simplest case a 1-d tensor of row numbers)."""

    def __call__(self, batch: Batch, /) -> Tensor:
        """The loss of every curve, shape (curves,) or (curves, steps), detached."""


FLUSH_SECONDS = 0.5
"""Whatever is sent wakes the kernel, on a core that a rank has: twice as often, a small step took 1.5 % more."""
MOST_POINTS = 10_000
"""Of a curve: of a run of more steps, several are told as their mean."""


class Clock:
    """Seconds spent training. Scoring and reporting happen while it is paused."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._since = time.perf_counter()

    def start(self) -> None:
        self.seconds, self._since = 0.0, time.perf_counter()

    def stop(self) -> float:
        if torch.cuda.is_initialized():  # what was launched is to be counted
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - self._since
        return self.seconds

    def resume(self) -> None:
        self._since = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        self.stop()
        yield
        self.resume()


class Recorder:
    """Gathers losses and scores and sends them together twice a second, so that recording costs next to nothing.

    Parameters
    ----------
    report
        Sends events, together.
    done
        Steps that were made before.
    until
        What a score must be as good as, so that the training has reached its goal; 0: there is none.
    may_diverge
        What to do when a curve's loss is not finite: call this with its place, once, and end the curve there. None:
        raise.

    Attributes
    ----------
    seconds
        Of training, until the epoch that is scored.
    path
        Of every epoch that was scored: its number, the seconds of training until then, loss and metric.
    has_reached
        Whether a score was as good as that.

    Raises
    ------
    InputError
        From `look` and `flush`, when a loss is not finite: which curve, in which epoch, and what to try.
    """

    def __init__(
        self,
        report: Report,
        rank: int,
        curves: Sequence[str],
        steps_per_epoch: int,
        epochs: int,
        may_diverge: Callable[[int, str], None] | None = None,
        done: int = 0,
        until: float = 0.0,
    ) -> None:
        self.until, self.seconds, self.has_reached = until, 0.0, False
        self.path: list[tuple[int, float, float, float]] = []
        self._may_diverge = may_diverge
        self._ended: set[int] = set()
        self._report, self._rank, self._curves = report, rank, tuple(curves)
        self._per_epoch, self._total = steps_per_epoch, steps_per_epoch * epochs
        self._pending: list[Tensor | float] = []
        self._points: dict[str, tuple[list[float], list[float]]] = {}
        self._beside: list[Event] = []
        self._stride = max(1, self._total // MOST_POINTS)
        self._done = self._told = done
        self._flushed, self._scored = time.perf_counter(), -math.inf

    @property
    def steps(self) -> int:
        """Steps seen so far."""
        return self._done

    def add(self, losses: Tensor | Sequence[float]) -> None:
        """One step's losses, shape (curves,), or those of several, (curves, steps); or one curve's, of any number."""
        steps = losses if not isinstance(losses, Tensor) else losses.unbind(1) if losses.dim() == 2 else (losses,)
        self._done += len(steps)
        self._pending += steps
        if time.perf_counter() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def score(self, epoch: int, scores: Mapping[str, float]) -> None:
        """Points of other curves at an epoch's end. All is sent, unless that was done a moment ago: of a small task."""
        for curve, y in scores.items():
            self._extend(curve, (float(epoch),), (y,))
        if time.perf_counter() - self._scored > FLUSH_SECONDS:
            self.flush()
            self._scored = self._flushed

    def say(self, *events: Event) -> None:
        """What may wait until losses are sent: each message takes the kernel time."""
        self._beside += events

    def restart(self) -> None:
        """Curves that ended go on: what they stand for has been made anew."""
        self._ended.clear()

    def look(self) -> None:
        """See that what has gathered is finite."""
        if not self._pending:
            return
        # By numpy and torch: a loop over the steps of a moment would cost a small network's rank a step or two of them.
        if isinstance(self._pending[0], float):
            values = np.array([self._pending])
        else:
            values = torch.stack(self._pending).double().T.numpy()  # type: ignore[arg-type]
        first, count = self._done - len(self._pending), len(self._pending)
        x = (np.arange(first + 1, first + count + 1) / self._per_epoch).tolist()
        finite = np.isfinite(values)
        self._pending = []
        for place, curve in enumerate(self._curves):
            if place in self._ended:
                continue
            bad = None if finite[place].all() else int(finite[place].argmin())
            y = values[place].tolist()
            self._extend(curve, x[:bad], y[:bad])
            if bad is not None:
                said = f"the loss of '{curve}' became {y[bad]} in epoch {math.ceil(x[bad])}"
                if self._may_diverge is None:
                    self._send()
                    raise InputError(f"{said}: lower the learning rate, scale the inputs, or look for NaN in the data")
                self._ended.add(place)
                self._may_diverge(place, said)

    def flush(self) -> None:
        """Send what has gathered."""
        self.look()
        self._send()

    def _send(self) -> None:
        self._flushed = time.perf_counter()
        events: list[Event] = []
        for curve, (x, y) in self._points.items():
            if x:
                shown_x, shown_y = thin(x, y, self._stride if curve in self._curves else 1)
                events.append(Points(rank=self._rank, curve=curve, x=shown_x, y=shown_y))
        self._points = {}
        if self._told < self._done:
            self._told = self._done
            events.append(Progress(rank=self._rank, done=self._done, total=self._total))
        events += self._beside
        self._beside = []
        if events:
            self._report(*events)

    def _extend(self, curve: str, x: Sequence[float], y: Sequence[float]) -> None:
        xs, ys = self._points.setdefault(curve, ([], []))
        xs += x
        ys += y


def thin(x: Sequence[float], y: Sequence[float], stride: int) -> tuple[tuple[float, ...], ...]:
    """Of a long run, the means of so many steps in turn, each at its last step."""
    if stride == 1:
        return tuple(x), tuple(y)
    starts = np.arange(0, len(y), stride)
    counts = np.minimum(stride, len(y) - starts)
    means = np.add.reduceat(np.asarray(y), starts) / counts
    return tuple(x[last] for last in starts + counts - 1), tuple(means.tolist())


def batches(rows: int, batch: int, seed: int, epoch: int) -> tuple[Tensor, ...]:
    """The rows of one epoch in the order that (seed, epoch) decides, cut into batches; the last may be shorter."""
    generator = torch.Generator().manual_seed(derive(seed, epoch))
    return torch.randperm(rows, generator=generator).split(batch)


def fit(
    step: Callable[[Part], Tensor | Sequence[float]],
    epoch_batches: Callable[[int], Sequence[Part]],
    epochs: int,
    *,
    recorder: Recorder,
    clock: Clock,
    stopping: Callable[[], bool],
    end_epoch: Callable[[int], bool],
    start: tuple[int, int] = (0, 0),
) -> bool:
    """Train for `epochs`, or until told to stop, from `start` (epoch, step) on. Returns whether it came to its end.

    `stopping` is asked after every step. `end_epoch(epoch)` is called with the clock paused, also when the epoch was
    cut short; it returns whether all ranks agree to end here, which is the end too where the goal was reached.
    """
    for epoch in range(start[0], epochs):
        every = epoch_batches(epoch)
        for batch in every[start[1] :] if epoch == start[0] else every:
            recorder.add(step(batch))
            if stopping():
                break
        with clock.paused():
            recorder.look()
            recorder.seconds = clock.seconds
            if end_epoch(epoch + 1):
                recorder.flush()
                return recorder.has_reached
    with clock.paused():
        recorder.flush()
    return True


def plain_step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    clipped: float | None = None,
    scheduler: Any = None,
    around_forward: Callable[[], AbstractContextManager[Any]] | None = None,
) -> Step[Tensor]:
    """The step that everybody writes first: forward, backward, update, in one process.

    `around_forward` is entered for the forward pass and the loss of each step.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def step(rows: Tensor) -> Tensor:
        optimizer.zero_grad()
        if around_forward is None:
            value = loss(model(x[rows]), y[rows])
        else:
            with around_forward():
                value = loss(model(x[rows]), y[rows])
        value.backward()
        clip(parameters, clipped)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        return value.detach().reshape(1)

    return step
