"""Programs for ranks that measure a machine's ceilings, and what a task's step amounts to beside them.

`measure_machine` runs on one rank, with one thread and with all that it may use: every gauge has its turn in every
round, so that what disturbs the machine for a while disturbs none of them alone. `measure_links` runs on two.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..comm.context import Context
from ..hardware.ceilings import Ceiling
from ..levers.hardware import with_threads
from ..preparing.building import trained
from ..preparing.prepare import prepare
from ..preparing.seeds import seed_all
from ..runs.events import Event, Gauged, Progress
from ..task import Task
from .calibration import measure_link
from .counting import count_step, time_layers
from .gauge import Action, Gauge, Refused
from .gauges import gauges

LEAST_ROUNDS, MOST_ROUNDS = 3, 11
"""Rounds: as many as fit into the seconds, within these. Quartiles of three samples are hardly any: they say so little
on a machine that is so slow."""
SAMPLE_SECONDS = 0.003
"""An action is called as often as that takes: one call of a small one would be lost in the clock."""
MOST_CALLS = 5000
CALLS = 120
"""A call may take the whole budget's seconds over this; what takes longer is not measured, and says so."""
REPORT_SECONDS = 0.25
LINK_SAMPLES = 5


class Turn:
    """A gauge with its samples so far, in the figure's unit."""

    def __init__(self, gauge: Gauge, longest: float) -> None:
        self.gauge, self._longest = gauge, longest
        self.samples: list[float] = []
        self.why = ""
        self._action: Action | None = None
        self._calls = 1

    @property
    def is_over(self) -> bool:
        """Whether it cannot be measured."""
        return self._action is None and bool(self.why)

    def begin(self, before: Turn | None) -> None:
        """Make what is called, and find out how often in a sample. `before` is the next smaller one of its kind."""
        gauge, why = self.gauge, ""
        if before is not None and before.is_over:
            why = before.why
        elif before is not None and before.samples and gauge.is_rate:
            seconds = gauge.per_call / before.samples[-1]
            why = self._too_long(seconds) if seconds > 3 * self._longest else ""
        if not why:
            try:
                with gauge.around():
                    action = gauge.make()
                    seconds = timed(action, 1)
            except Refused as refused:
                why = str(refused)
            else:
                self._action = action
                self.why = gauge.remark() if gauge.remark is not None else ""
                self._calls = max(1, min(MOST_CALLS, round(SAMPLE_SECONDS / max(seconds, 1e-9))))
                why = self._too_long(seconds) if seconds > self._longest else ""
        if why:
            self.why, self._action = why, None

    def _too_long(self, seconds: float) -> str:
        return f"a call would take {seconds:.2g} s, too long for the budget"

    def take(self) -> None:
        """One sample."""
        if self._action is not None:
            with self.gauge.around():
                self._action()  # threads and caches are as the gauge before has left them
                seconds = timed(self._action, self._calls)
            self.samples.append(self.gauge.value(seconds))

    def ceiling(self) -> Ceiling:
        """The figure, as far as it is known."""
        return of_samples(replace(self.gauge.about, why=self.why), self.samples)


def timed(action: Action, calls: int) -> float:
    """Seconds of a call."""
    began = time.perf_counter()
    for _ in range(calls):
        action()
    return (time.perf_counter() - began) / calls


def of_samples(about: Ceiling, samples: Sequence[float]) -> Ceiling:
    """A figure with the median of its samples and their quartiles."""
    if not samples:
        return about
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive") if len(samples) > 1 else 3 * [samples[0]]
    return replace(about, value=middle, low=low, high=high, samples=len(samples))


def measure_machine(context: Context, seconds: float) -> list[dict[str, Any]]:
    """All gauges, with one thread and with all; each figure is an event when its first sample is there.

    Parameters
    ----------
    seconds
        All that it may take; a little more where even three rounds do.

    Returns
    -------
    list
        `Ceiling`s as JSON objects.
    """
    began, told, taken = time.perf_counter(), 0.0, 0
    seed_all(0)
    counts = dict.fromkeys((1, context.threads))
    groups = [(threads, [Turn(gauge, seconds / CALLS) for gauge in gauges(threads)]) for threads in counts]
    most = MOST_ROUNDS * sum(len(each) for _, each in groups)
    round_seconds = 0.0

    def tell(*events: Event) -> None:
        nonlocal told, taken
        taken += 1
        now = time.perf_counter() - began
        if events or now - told > REPORT_SECONDS:
            told = now
            share = min(1.0, max(now / seconds, taken / most))
            context.report(*events, Progress(rank=context.rank, done=round(1e3 * share), total=1000))

    for number in range(MOST_ROUNDS):
        so_far = time.perf_counter() - began
        if context.stopping() or (number >= LEAST_ROUNDS and so_far + round_seconds > seconds):
            break
        for threads, each in groups:
            with with_threads(threads):
                one_round(each, number == 0, tell, context)
        round_seconds = time.perf_counter() - began - so_far
    return [turn.ceiling().summary() for _, each in groups for turn in each]


def one_round(each: Sequence[Turn], is_first: bool, tell: Callable[..., None], context: Context) -> None:
    """Every gauge's turn, with the threads that are set."""
    before: Turn | None = None
    for turn in each:
        if context.stopping():
            return
        if is_first:
            about = turn.gauge.about
            alike = before is not None and (about.kind, about.name) == before.gauge.about.key[:2]
            turn.begin(before if alike else None)
        turn.take()
        tell(*([Gauged(rank=context.rank, ceiling=turn.ceiling().summary())] if is_first else []))
        before = turn


def measure_links(context: Context) -> list[dict[str, Any]] | None:
    """Latency and bandwidth between the first two ranks. On rank 0, else None. Collective."""
    links = [measure_link(context.comm, 0, 1) for _ in range(LINK_SAMPLES)]
    if not context.is_root:
        return None
    kinds = {
        "latency": [link.alpha for link in links],
        "link": [link.beta / 1e9 for link in links],
        "link, both ways": [link.both / 1e9 for link in links],
    }
    return [of_samples(Ceiling(kind=kind), samples).summary() for kind, samples in kinds.items()]


def measure_task(context: Context, task: Task, batch: int) -> dict[str, Any]:
    """A step of a task: counted by layer, and the forward pass of those layers timed that compute something.

    Returns
    -------
    dict
        A `costs.work.Step` as a JSON object.

    Raises
    ------
    InputError
        Where the task does not fit, as before every training.
    """
    prepared = prepare(task, batch)
    network = prepared.model(0)
    names, parameters = zip(*trained(network), strict=True)
    x, y = prepared.x[:batch], prepared.y[:batch]
    optimizer = prepared.optimizer(parameters, names)
    step = count_step(network, prepared.loss_function, optimizer, x, y, name=task.name)
    took = time_layers(network, x, [layer.name for layer in step.layers if layer.forward.operations])
    layers = tuple(replace(layer, seconds=tuple(took.get(layer.name, ()))) for layer in step.layers)
    return replace(step, layers=layers, threads=torch.get_num_threads()).summary()
