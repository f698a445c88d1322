"""The study of seeds: what sub-networks are worth in accuracy, with the spread over seeds beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from ..options import option
from ..ranks.pool import RankPool
from ..runs.result import Result
from ..runs.run import Run
from ..task import Task
from ..training.spec import Baseline, Spec, Subnets, make_spec
from ..ways import TITLES, count
from .rounds import Later, Rounds, derive, start_rounds
from .rows import Row, verdict


@dataclass(frozen=True, kw_only=True)
class SeedStudy(Subnets):
    """Sub-networks beside the network as it is, and beside one network of as many parameters, over several seeds."""

    way: ClassVar[str] = "seeds"
    seeds: int = option(5, "seeds, from --seed on; the table has mean and spread over them", at_least=2)


class SeedRounds(Rounds):
    """Every round has the next seed; the spread over them says what can be told apart."""

    keeps_others = False  # the last way is as large as the one before it

    def of_round(self, spec: Spec, number: int) -> Spec:
        return replace(spec, seed=spec.seed + number - 1)

    def conclusions(self) -> list[str]:
        baseline, subnets, as_large = self.rows
        return [verdict(subnets, baseline), verdict(subnets, as_large), *super().conclusions()]


def compare_seeds(task: Task | None = None, *, pool: RankPool | None = None, **options: Any) -> Run[list[Row]]:
    """Train sub-networks, the network as it is, and one network of as many parameters, each with several seeds.

    Parameters
    ----------
    **options
        The fields of `SeedStudy`: seeds, and those of `train_subnets`.

    Returns
    -------
    Run
        `run.wait()` gives three rows with the mean of the metric and its standard deviation over the seeds. Its notes
        say which is better, or that the spread does not let it be said.

    Raises
    ------
    InputError
        For an option that does not exist or a value out of bounds.
    """
    spec = make_spec(SeedStudy, options)
    subnets = count(spec.subnets, "sub-network")

    def as_large(results: Mapping[str, list[Result]]) -> Spec:
        return derive(Baseline, spec, parameters=results[subnets][0].parameters)

    ways: list[tuple[str, Spec | Later]] = [
        (TITLES["baseline"], derive(Baseline, spec)),
        (subnets, derive(Subnets, spec)),
        ("one network, as many parameters", as_large),
    ]
    return start_rounds(task, spec, ways, spec.seeds, pool, plan=SeedRounds)
