"""What the study asks a rank: programs that import torch there, never in the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..comm.context import Context
from ..levers import Lever, Plan
from ..task import Task
from ..training.spec import Baseline


def run_survey(context: Context, task: Task, spec: Baseline, kinds: Sequence[type[Lever]]) -> Any:
    """See `cooptim_lab.gates.survey`."""
    from ..gates import survey

    return survey(context, task, spec, kinds)


def run_pass_gates(context: Context, task: Task, spec: Baseline, plans: Sequence[Plan], seed: int) -> Any:
    """See `cooptim_lab.gates.pass_gates`."""
    from ..gates import pass_gates

    return pass_gates(context, task, spec, plans, seed)
