"""What a plan's epoch will cost beside the default's, foretold from the machine's ceilings and the counted step.

Of plans of one process only, and of the network as it is: a narrower one, or N in its place, has another step.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..costs.work import Step
from ..errors import InputError
from ..hardware.ceilings import BF16, FLOAT32, INSIDE, Ceilings
from ..levers import Plan
from ..levers.plan import NONE
from .prediction import predict

KNOWN = ("threads", "fused", "batch", "lr", "bf16-products", "bf16")
"""Levers whose part in a step is known."""
PRECISIONS = {"bf16-products": INSIDE, "bf16": BF16}


def foretell(plans: Iterable[Plan], step: Step, ceilings: Ceilings, optimizer: str) -> dict[str, float]:
    """By a plan's text, the seconds of an epoch over the default's; plans of which it cannot be known are left out.

    Parameters
    ----------
    step
        Of the default: its rows, and its optimizer's loop.
    optimizer
        Its class, as "Adam".
    """
    default = _seconds(NONE, step, ceilings, optimizer)
    if default is None:
        return {}
    seconds = {str(plan): _seconds(plan, step, ceilings, optimizer) for plan in plans}
    return {text: took / default for text, took in seconds.items() if took is not None}


def _seconds(plan: Plan, step: Step, ceilings: Ceilings, optimizer: str) -> float | None:
    """Of a row."""
    names = [lever.name for lever in plan.levers]
    if any(name not in KNOWN for name in names):
        return None
    rows, threads = int(plan.options.get("batch", step.rows)), ceilings.cpus
    threads = next((int(lever.value or 0) for lever in plan.levers if lever.name == "threads"), threads)
    precision = next((PRECISIONS[name] for name in names if name in PRECISIONS), FLOAT32)
    try:
        found = predict(
            step, ceilings, threads=threads, precision=precision, fused="fused" in names, optimizer=optimizer, rows=rows
        )
    except InputError:  # so many threads, or such an optimizer, were not measured
        return None
    return found.seconds / rows
