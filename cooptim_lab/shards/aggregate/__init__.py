"""How the gradients, or the weights, of M shards become one training. One small class per way, over a communicator."""

from __future__ import annotations

from typing import Any

from ...comm.timeline import Timeline
from .asynchronous import Async
from .base import Aggregator, Outcome, Settings
from .periodic import DiLoCo, Local
from .place import OWN_MEMORY, Place
from .replica import Replica
from .shared import OneMemory, Posted, Shared
from .synchronous import AllReduce, Ordered, Own, Server

__all__ = ["AGGREGATORS", "Aggregator", "Outcome", "Replica", "Settings", "make_aggregator", "make_place"]

AGGREGATORS: dict[str, type[Aggregator]] = {
    "server": Server,
    "allreduce": AllReduce,
    "ordered": Ordered,
    "shared": Shared,
    "local": Local,
    "diloco": DiLoCo,
    "async": Async,
}


def make_place(way: Any, comm: Any, timeline: Timeline) -> Place:
    """Where the replicas lie that are to be aggregated like that. Collective."""
    return OneMemory(comm, timeline) if way == "shared" else OWN_MEMORY


def make_aggregator(way: Any, comm: Any, replica: Replica, settings: Settings, timeline: Timeline) -> Aggregator:
    """An aggregator by its name, or by a user's class with a method `aggregate` (see `synchronous.Own`)."""
    if isinstance(way, str):
        kind = AGGREGATORS[way]
        if isinstance(replica.place, OneMemory) and not replica.place.is_divided:
            kind = Posted
        return kind(comm, replica, settings, timeline)
    return Own(comm, replica, settings, timeline, way() if isinstance(way, type) else way)
