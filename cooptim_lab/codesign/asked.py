"""What the study asks a rank: programs that import torch there, never in the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..comm.context import Context
from ..levers import Lever, Plan
from ..runs.events import Phase
from ..runs.result import Result
from ..task import Task
from ..training.spec import Baseline, Spec


def run_survey(context: Context, task: Task, spec: Baseline, kinds: Sequence[type[Lever]]) -> Any:
    """See `cooptim_lab.gates.survey`."""
    from ..gates import survey

    return survey(context, task, spec, kinds)


def run_pass_gates(context: Context, task: Task, spec: Baseline, plans: Sequence[Plan], seed: int) -> Any:
    """See `cooptim_lab.gates.pass_gates`."""
    from ..gates import pass_gates

    return pass_gates(context, task, spec, plans, seed)


def run_measure_inference(context: Context, task: Task, spec: Spec) -> Any:
    """See `cooptim_lab.inference.measure_inference`."""
    from ..inference import measure_inference

    return measure_inference(context, task, spec)


def run_trainings(
    context: Context, task: Task, specs: Sequence[Spec], titles: Sequence[str]
) -> list[tuple[Result | None, str]]:
    """Trainings of one task in one process, in turn; the task is read and examined once for each size of batch.

    Returns
    -------
    list
        Of each its result, without the network; or None and why it could not be trained. Shorter, if it was asked to
        end.
    """
    from ..data.values import first_line
    from ..errors import LabError
    from ..preparing.building import on_trial
    from ..preparing.prepare import kept
    from ..ways import run_program

    told: list[tuple[Result | None, str]] = []
    quiet = replace(context, report=lambda *events: None)
    with kept():
        for spec, title in zip(specs, titles, strict=True):
            context.report(Phase(text=title))
            try:
                result, _ = run_program(quiet, on_trial(task), spec)  # a loss may count its calls
            except LabError as error:
                told.append((None, str(error)))
            except Exception as error:  # noqa: BLE001 - what torch cannot do here, or a lever of the user's
                told.append((None, first_line(error)))
            else:
                assert result is not None
                if result.state != "done":
                    break
                told.append((replace(result, network_bytes=b""), ""))
    return told
