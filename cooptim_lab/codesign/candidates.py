"""Which plans are worth a gate, and which a training: combinations of the levers that apply, thinned out by what gates
have measured.

Levers that cannot change what is learned are put together if each alone is faster. Those that can are tried with these,
one by one and with every larger batch, as it is the batch that decides whether they pay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product

from ..errors import InputError
from ..levers import Lever, Plan
from ..levers.lever import STRUCTURE
from ..levers.plan import NONE

FASTER = 0.97
"""A lever alone is worth its place if an epoch takes no more than so much of the default's."""
WORTH = 1.0
"""A plan whose epoch takes longer than the default's cannot get anywhere sooner, unless it needs fewer of them."""
BATCH, RATE = "batch", "lr"


def singles(levers: Sequence[Lever]) -> list[Plan]:
    """Each lever alone, of those that one process obeys; a learning rate by itself costs what the default costs."""
    return [Plan((lever,)) for lever in levers if is_gated(lever) and lever.name != RATE]


def is_gated(lever: Lever) -> bool:
    """Whether its step can be timed in one process."""
    return not lever.way and "baseline" in lever.ways


def put_together(levers: Sequence[Lever], gates: Mapping[str, float]) -> Plan:
    """Of the levers that change nothing that is learned, those that are faster alone, the fastest first."""
    plan = NONE
    alike = [lever for lever in levers if is_gated(lever) and not lever.changes]
    for lever in sorted(alike, key=lambda lever: gates.get(str(lever), 1.0)):
        if gates.get(str(lever), 1.0) <= FASTER and lever.name not in [kept.name for kept in plan.levers]:
            plan = _and(plan, lever) or plan
    return plan


def combined(levers: Sequence[Lever], fast: Plan, gates: Mapping[str, float]) -> list[Plan]:
    """What is to be gated next: `fast`, with each lever that changes what is learned, with each batch.

    Also without its threads at every batch: one thread is best for small steps only.
    """
    batches = [None, *(lever for lever in levers if lever.name == BATCH)]
    others = [None, *(lever for lever in levers if _is_other(lever) and is_gated(lever))]
    kept = [each for each in others if each is None or gates.get(str(each), 1.0) < SLOWER or each.group == STRUCTURE]
    bases = [fast, fast.without("threads")] if any(lever.name == "threads" for lever in fast.levers) else [fast]
    made = [_and(_and(base, batch), other) for base, batch, other in product(bases, batches, kept)]
    return _unlike(made, known=[NONE, *singles(levers)])


SLOWER = 1.3
"""A lever of arithmetic that makes a small batch so much slower will not make a large one faster than others do."""


def to_train(levers: Sequence[Lever], gates: Mapping[str, float], plans: Iterable[Plan], batch: int) -> list[Plan]:
    """Of the gated plans those that may win, the fastest first; of a larger batch with each rule for its rate."""
    chosen = []
    for plan in sorted(plans, key=lambda plan: gates.get(str(plan), 1.0)):
        if gates.get(str(plan), 1.0) <= WORTH:
            chosen += with_rates(plan, levers, batch)
    return chosen


def with_rates(plan: Plan, levers: Sequence[Lever], batch: int) -> list[Plan]:
    """The plan, and where its batch is k times as large, with the rate times k and times √k, as far as these are
    levers."""
    k = float(plan.options.get(BATCH, batch)) / batch
    rules = {round(k, 2), round(k**0.5, 2)} - {1.0}
    rates = [lever for lever in levers if lever.name == RATE and lever.value is not None and lever.value in rules]
    largest_first = sorted(rates, key=lambda rate: -(rate.value or 0))
    return [*filter(None, (_and(plan, rate) for rate in largest_first)), plan]


def of_other_ways(levers: Sequence[Lever], fast: Plan, batch: int) -> list[Plan]:
    """Plans that turn the network into another way of training: with what of `fast` the way obeys, and with batches."""
    ways = [lever for lever in levers if lever.way]
    batches = [None, *(lever for lever in levers if lever.name == BATCH)]
    workers = [None, *(lever for lever in levers if lever.name == "workers")]
    made = []
    for lever in ways:
        base = Plan(tuple(each for each in fast.levers if lever.way in each.ways and lever.way in obeyed(each)))
        many = workers if lever.way == "subnets" else [None]
        for larger, more in product(batches, many):
            one = base.without("threads") if more is not None or lever.name == "shards" else base
            plan = _and(_and(_and(one, lever), larger), more)
            made += with_rates(plan, levers, batch)[:1] if plan else []
    return _unlike(made, known=[NONE])


def obeyed(lever: Lever) -> tuple[str, ...]:
    """Ways in which a lever is worth naming: sub-networks and shards step by a fused optimizer anyway."""
    return ("baseline",) if lever.name == "fused" else lever.ways


def _is_other(lever: Lever) -> bool:
    return lever.changes and lever.name not in (BATCH, RATE)


def _and(plan: Plan | None, lever: Lever | None) -> Plan | None:
    """With a lever; None where they exclude each other."""
    if plan is None or lever is None:
        return plan
    try:
        return plan.with_(lever)
    except InputError:
        return None


def _unlike(plans: Iterable[Plan | None], known: Iterable[Plan]) -> list[Plan]:
    """Each once, without those that are known."""
    seen = {str(plan) for plan in known}
    return [plan for plan in {str(plan): plan for plan in plans if plan is not None}.values() if str(plan) not in seen]
