"""What is carried out where a spec has a plan: another way, and other options than its own."""

from __future__ import annotations

import dataclasses

from ..errors import InputError
from .spec import WAYS, Baseline, Spec


def under_plan(spec: Spec) -> Spec:
    """What a spec comes to, whose plan may say another way and other options than itself.

    Raises
    ------
    InputError
        When the plan has a lever that the way does not obey.
    """
    plan = spec.obeyed
    way = plan.way if plan.way and spec.way == Baseline.way else spec.way
    if plan.way not in ("", way):
        raise InputError(f"plan = {plan}: it makes the network as it is one of {plan.way}, and this is {spec.way}")
    plan.check(way)
    kind = WAYS[way]
    shared = {item.name: getattr(spec, item.name) for item in dataclasses.fields(kind) if hasattr(spec, item.name)}
    return kind(**{**shared, **plan.options})
