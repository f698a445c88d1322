"""The study `compare`: each way of training a task, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..levers.plan import NONE, Plan
from ..options import option
from ..ranks.pool import RankPool
from ..runs.run import Run
from ..task import Task
from ..training.planned import under_plan
from ..training.spec import (
    Baseline,
    Sharded,
    Spec,
    Subnets,
    aggregate_option,
    make_spec,
    plan_option,
    read_plan,
    subnets_option,
)
from ..ways import TITLES, count
from .rounds import derive, start_rounds
from .rows import CODESIGNED, Row


@dataclass(frozen=True, kw_only=True)
class Comparison(Spec):
    """Each way, side by side."""

    way: ClassVar[str] = "compare"
    workers: int = option(2, "MPI ranks for sub-networks and shards", at_least=1)
    subnets: int = subnets_option()
    aggregate: str = aggregate_option()
    repeats: int = option(3, "rounds; the median counts, with its 95 % interval", at_least=1)
    plan: Plan = plan_option()  # noqa: RUF009 - makes a field

    def __post_init__(self) -> None:
        super().__post_init__()
        read_plan(self)


def compare(task: Task | None = None, *, pool: RankPool | None = None, **options: Any) -> Run[list[Row]]:
    """Train a task as it is, as sub-networks, sharded, and with a plan as the plan has it; set them side by side.

    All make the same number of epochs. What a plan is worth until the same score, `tune` says.

    Parameters
    ----------
    task
        What to train; the built-in digits when left out.
    pool
        The ranks to use; this process's own when left out.
    **options
        The fields of `Comparison`: subnets, workers, aggregate, repeats, plan, epochs, batch, seed.

    Returns
    -------
    Run
        `run.wait()` gives a `Row` for each way, the baseline first.

    Raises
    ------
    InputError
        For an option that does not exist or a value out of bounds.
    """
    spec = make_spec(Comparison, options)
    ways = [derive(kind, spec, plan=NONE) for kind in (Baseline, Subnets, Sharded)]
    titles = [
        TITLES["baseline"],
        count(spec.subnets, "sub-network"),
        f"{count(spec.workers, 'shard')}, {spec.options()['aggregate']}",
    ]
    if spec.plan:
        ways.append(under_plan(derive(Baseline, spec)))
        titles.append(f"{CODESIGNED}: {spec.plan}")
    return start_rounds(task, spec, list(zip(titles, ways, strict=True)), spec.repeats, pool)
