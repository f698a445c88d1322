"""The study `speedup`: one way at several numbers of workers, beside the network as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import InputError
from ..options import option
from ..ranks.pool import RankPool
from ..runs.run import Run
from ..task import Task
from ..training.spec import Baseline, Sharded, Spec, Subnets, aggregate_option, make_spec, subnets_option
from ..ways import TITLES, count
from .rounds import derive, start_rounds
from .rows import FEW_REPEATS, Row


@dataclass(frozen=True, kw_only=True)
class SpeedupStudy(Spec):
    """One way at several numbers of workers, beside the baseline."""

    way: ClassVar[str] = "speedup"
    workers: tuple[int, ...] = option((1, 2), "numbers of MPI ranks to measure, as 1,2,4", at_least=1)  # type: ignore[assignment]
    subnets: int = subnets_option()
    aggregate: str = aggregate_option()
    repeats: int = option(FEW_REPEATS, "rounds; the median counts, with its 95 % interval", at_least=1)


def measure_speedup(
    task: Task | None = None, way: str = "sharded", *, pool: RankPool | None = None, **options: Any
) -> Run[list[Row]]:
    """Measure the speedup of one way at several numbers of workers, beside the network as it is.

    Parameters
    ----------
    way
        subnets or sharded.
    **options
        The fields of `SpeedupStudy`: workers (a tuple), repeats, subnets, aggregate, epochs, batch, seed.

    Returns
    -------
    Run
        `run.wait()` gives a `Row` for each number of workers. Rows come as `Measured` events while the rounds go on.

    Raises
    ------
    InputError
        For an unknown way, an option that does not exist or a value out of bounds.
    """
    kinds: dict[str, type[Spec]] = {"subnets": Subnets, "sharded": Sharded}
    if way not in kinds:
        raise InputError(f"way = {way!r}: choose subnets or sharded")
    spec = make_spec(SpeedupStudy, options)
    counts = sorted(set(spec.workers))
    if way == "subnets" and counts[-1] > spec.subnets:
        raise InputError(
            f"workers = {counts[-1]}: there are only {spec.subnets} sub-networks to share; give -n {counts[-1]} or more"
        )
    ways: list[tuple[str, Spec]] = [(TITLES["baseline"], derive(Baseline, spec))]
    for workers in counts:
        title = f"{TITLES[way]}, {count(workers, 'worker')}"
        ways.append((title, derive(kinds[way], spec, workers=workers)))
    return start_rounds(task, spec, ways, spec.repeats, pool, way=way)
