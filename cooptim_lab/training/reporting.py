"""What all programs of training do around their steps: warm up, record, report scores, make the result."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..comm.context import Context
from ..preparing.building import count_parameters, packed
from ..preparing.modes import put
from ..preparing.scoring import Score
from ..runs.events import Note
from ..runs.result import Result
from ..task import Task
from .loop import Recorder, Step
from .spec import Baseline, Sharded, Spec, Subnets

WARM_UP_STEPS = 5
HELD_OUT = "held-out loss"
Way = Baseline | Subnets | Sharded


def warm_up(build: Callable[[], Step[Any]], epoch_batches: Callable[[int], Sequence[Any]]) -> None:
    """A few steps of a copy that is thrown away: first calls are slow, and not what is to be measured."""
    with torch.random.fork_rng():
        step = build()
        for batch in itertools.islice(itertools.cycle(epoch_batches(0)), WARM_UP_STEPS):
            step(batch)


def tell_findings(context: Context, findings: Sequence[str]) -> None:
    """What was seen of a task before the clock, once for all ranks."""
    if context.is_root and findings:
        context.report(*(Note(rank=0, text=text) for text in findings))


def make_recorder(
    context: Context,
    curves: Sequence[str],
    rows: int,
    spec: Way,
    *,
    muted: bool = False,
    may_diverge: Callable[[int, str], None] | None = None,
    done: int = 0,
) -> Recorder:
    """`muted` where every rank sees the same losses: all look for NaN, so that all end together, and one reports.

    `rows` of an epoch; `may_diverge` and `done` as in `Recorder`.
    """
    report = (lambda *events: None) if muted else context.report
    return Recorder(
        report, context.rank, curves, math.ceil(rows / spec.batch), spec.epochs, may_diverge, done, spec.until
    )


def record_score(recorder: Recorder, epoch: int, score: Score) -> None:
    """Of held-out rows, at an epoch's end."""
    metric = {} if score.metric_name == "loss" else {score.metric_name: score.metric}
    recorder.path.append((epoch, recorder.seconds, score.loss, score.metric))
    is_accuracy = score.metric_name == "accuracy"
    good = score.metric >= recorder.until if is_accuracy else score.loss <= recorder.until
    recorder.has_reached |= recorder.until > 0 and good
    recorder.score(epoch, {HELD_OUT: score.loss, **metric})


def make_result(
    context: Context,
    task: Task,
    spec: Spec,
    network: nn.Module,
    score: Score,
    seconds: float,
    steps: int,
    finished: bool,
    subnets: Sequence[nn.Module] = (),
    path: Sequence[tuple[int, float, float, float]] = (),
    **more: Any,
) -> Result:
    return Result(
        way=spec.way,
        task=task.name,
        options=spec.options(),
        state="done" if finished else "stopped",
        workers=context.size,
        threads=torch.get_num_threads(),  # a program may have asked for fewer than it was given
        seconds=seconds,
        steps=steps,
        loss=score.loss,
        metric=score.metric,
        metric_name=score.metric_name,
        parameters=count_parameters(network),
        path=tuple(path),
        network_bytes=packed("the trained network", *(put(each, training=False) for each in (network, *subnets))),
        **more,
    )
