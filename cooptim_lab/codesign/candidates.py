"""Which plans are worth a moment at a gate, and which a training: combinations of the levers that apply.

Levers that cannot change what is learned are put together if each alone is faster. Those that can are tried with these,
one by one and with every larger batch, as it is the batch that decides whether they pay. Which rule the learning rate
of a larger batch follows is seen on the network as it is, and taken over.
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
"""A plan whose epoch takes longer than the default's gets nowhere sooner, unless it needs fewer of them."""
SLOWER = 1.3
"""A lever of arithmetic that makes a small batch so much slower does not make a large one faster than others do."""
BATCH, RATE, THREADS, WORKERS = "batch", "lr", "threads", "workers"
Gates = Mapping[str, float]
"""By a plan's text, the seconds of an epoch over the default's."""


def singles(levers: Sequence[Lever]) -> list[Plan]:
    """Each lever alone, of those that one process obeys; a learning rate by itself costs what the default costs."""
    return [Plan((lever,)) for lever in levers if is_gated(lever) and lever.name != RATE]


def is_gated(lever: Lever) -> bool:
    """Whether its step can be timed in one process."""
    return not lever.way and "baseline" in lever.ways


def put_together(levers: Sequence[Lever], gates: Gates) -> Plan:
    """Of the levers that change nothing that is learned, those that are faster alone, the fastest first."""
    plan = NONE
    alike = [lever for lever in levers if is_gated(lever) and not lever.changes]
    for lever in sorted(alike, key=lambda lever: gates.get(str(lever), 1.0)):
        if gates.get(str(lever), 1.0) <= FASTER and lever.name not in [kept.name for kept in plan.levers]:
            plan = _and(plan, lever) or plan
    return plan


def combined(levers: Sequence[Lever], fast: Plan, gates: Gates) -> list[Plan]:
    """What is to be gated next: `fast`, with each lever that changes what is learned, with each batch.

    With and without its threads: one thread is best for small steps only.
    """
    others = [None, *(lever for lever in levers if _is_other(lever) and is_gated(lever))]
    kept = [each for each in others if each is None or gates.get(str(each), 1.0) < SLOWER or each.group == STRUCTURE]
    made = [_and(_and(base, batch), other) for base, batch, other in product(_bases(fast), _batches(levers), kept)]
    return _unlike(made, known=[NONE, *singles(levers)])


def of_rules(levers: Sequence[Lever], fast: Plan, gates: Gates, batch: int) -> list[Plan]:
    """`fast` with every batch, each with every rule for its learning rate: the linear one first."""
    made = []
    for larger in _batches(levers):
        plan = _faster((_and(base, larger) for base in _bases(fast)), gates)
        if plan is not None and (larger is None or gates.get(str(plan), 1.0) <= WORTH):
            made += [*filter(None, (_and(plan, rate) for rate in _rates(levers, plan, batch))), plan]
    return _unlike(made, known=[NONE])


def of_others(
    levers: Sequence[Lever], fast: Plan, gates: Gates, rules: Mapping[int | None, Lever | None]
) -> list[Plan]:
    """The other levers that change what is learned, with each batch and the rule that was best with it; fastest first.

    Parameters
    ----------
    rules
        By batch (None: as it is), the rate; a batch that is not in it is left out.
    """
    made: dict[Plan, float] = {}
    for larger, other in product(_batches(levers), [each for each in levers if _is_other(each) and is_gated(each)]):
        size = None if larger is None else int(larger.value or 0)
        plan = _faster((_and(_and(base, larger), other) for base in _bases(fast)), gates)
        if plan is not None and str(plan) in gates and gates[str(plan)] <= WORTH and size in rules:
            made[_and(plan, rules[size]) or plan] = gates[str(plan)]
    return sorted(made, key=lambda plan: made[plan])


def of_ways(levers: Sequence[Lever], fast: Plan, best: Plan) -> list[Plan]:
    """Plans of another way of training: with what of `fast` it obeys, as it is and with the batch of the best plan."""
    larger = Plan(tuple(lever for lever in best.levers if lever.name in (BATCH, RATE)))
    made = []
    for lever in (each for each in levers if each.way):
        base = Plan(tuple(each for each in fast.levers if lever.way in each.ways and each.name != "fused"))
        base = base.without(THREADS) if lever.name == "shards" else base
        plans = [_and(base, lever), _and(Plan((*base.levers, *larger.levers)), lever)]
        only_here = [each for each in levers if lever.way in each.ways and "baseline" not in each.ways and not each.way]
        made += plans + [_and(plan, each) for each in only_here if each.name != WORKERS for plan in plans[:1]]
    return _unlike(made, known=[NONE])


def neighbours(levers: Sequence[Lever], best: Plan) -> list[Plan]:
    """The best plan with one of its levers at the next value up or down; its learning rate twice and half of it."""
    made = []
    for lever in best.levers:
        if lever.value is None:
            continue
        if lever.name == RATE:
            made += [_and(best, type(lever)(lever.value * 2)), _and(best, type(lever)(lever.value / 2))]
            continue
        values = sorted({each.value or 0 for each in levers if each.name == lever.name} | {lever.value})
        place = values.index(lever.value)
        made += [_and(best, type(lever)(value)) for value in values[max(0, place - 1) : place + 2]]
    if rate_of(best) is None:
        made += [_and(best, type(rate)(2.0)) for rate in levers if rate.name == RATE][:1]
    return _unlike(made, known=[NONE, best])


def on_more_ranks(levers: Sequence[Lever], best: Plan) -> list[Plan]:
    """A plan of sub-networks, dealt among ranks."""
    workers = [lever for lever in levers if lever.name == WORKERS] if best.way == "subnets" else []
    return [plan for lever in workers if (plan := _and(best.without(THREADS), lever)) is not None]


def rate_of(plan: Plan) -> Lever | None:
    """Its learning rate's lever."""
    return next((lever for lever in plan.levers if lever.name == RATE), None)


def batch_of(plan: Plan) -> int | None:
    """Its batch, where it is not the default's."""
    return next((int(lever.value or 0) for lever in plan.levers if lever.name == BATCH), None)


def gate_of(plan: Plan, gates: Gates) -> float | None:
    """What was measured of it, whatever its learning rate is."""
    return gates.get(str(plan.without(RATE)))


def _rates(levers: Sequence[Lever], plan: Plan, batch: int) -> list[Lever]:
    """For a batch k times as large, k and √k, as far as they are levers."""
    k = float(plan.options.get(BATCH, batch)) / batch
    rules = {round(k, 2), round(k**0.5, 2)} - {1.0}
    rates = [lever for lever in levers if lever.name == RATE and lever.value is not None and lever.value in rules]
    return sorted(rates, key=lambda rate: -(rate.value or 0))


def _batches(levers: Sequence[Lever]) -> list[Lever | None]:
    return [None, *(lever for lever in levers if lever.name == BATCH)]


def _bases(fast: Plan) -> list[Plan]:
    return [fast, fast.without(THREADS)] if any(lever.name == THREADS for lever in fast.levers) else [fast]


def _is_other(lever: Lever) -> bool:
    return lever.changes and lever.name not in (BATCH, RATE)


def _faster(plans: Iterable[Plan | None], gates: Gates) -> Plan | None:
    known = [plan for plan in plans if plan is not None]
    return min(known, key=lambda plan: gates.get(str(plan), 1.0), default=None)


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
