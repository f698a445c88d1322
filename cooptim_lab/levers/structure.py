"""Levers that change the network: N sub-networks in its place, a narrower or a pruned one; its rows over ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .lever import HARDWARE, STRUCTURE, Lever, Seen


class Subnets(Lever):
    """N narrow sub-networks, trained at the same time by one engine, fused by their mean."""

    name, group, help = "subnets", STRUCTURE, "N narrow sub-networks in its place, fused by their mean"
    kind, least, changes, way = int, 2, True, "subnets"
    excludes = ("narrow", "prune", "shards")

    def options(self) -> Mapping[str, Any]:
        return {"subnets": self.value}

    @classmethod
    def tried(cls, seen: Seen) -> Iterable[Lever]:
        return [cls(2), cls(4), cls(8)]


class Narrow(Lever):
    """Every hidden layer narrowed alike, until that share of the parameters is left; trained from fresh weights."""

    name, group, help = "narrow", STRUCTURE, "every hidden layer narrower, to that share of the parameters"
    kind, changes, ways = float, True, ("baseline",)
    excludes = ("subnets", "shards", "prune")

    def options(self) -> Mapping[str, Any]:
        return {"narrow": self.value}

    def why_not(self, seen: Seen) -> str:
        return "" if self.value is not None and self.value < 1 else "it would not be narrower"

    @classmethod
    def tried(cls, seen: Seen) -> Iterable[Lever]:
        return [cls(0.5), cls(0.25), cls(0.1)]


class Prune(Lever):
    """After the first epoch the hidden units that weigh least go, to that share of the parameters; the rest trains on.

    Beside `narrow` it begins with weights that have learned, and pays for it with an epoch of the whole network.
    """

    name, group, help = (
        "prune",
        STRUCTURE,
        "hidden units that weigh least go after an epoch, to that share of the parameters",
    )
    kind, changes, ways = float, True, ("baseline",)
    excludes = ("subnets", "shards", "narrow", "bf16", "channels-last", "compile")

    def options(self) -> Mapping[str, Any]:
        return {"prune": self.value}

    def why_not(self, seen: Seen) -> str:
        from ..preparing.optimizers import treats_numbers_alone

        if self.value is None or self.value >= 1:
            return "nothing would go"
        name = type(seen.optimizer).__name__
        return "" if treats_numbers_alone(seen.optimizer) else f"{name} may remember more of a weight than its numbers"

    def paced(self) -> Lever:
        return Narrow(self.value)

    @classmethod
    def tried(cls, seen: Seen) -> Iterable[Lever]:
        return [cls(0.5), cls(0.25), cls(0.1)]


class Shards(Lever):
    """The rows over that many ranks, their gradients summed in one memory at every step: what one process learns."""

    name, group, help = "shards", HARDWARE, "the rows over so many ranks, gradients summed at every step"
    kind, least, way = int, 2, "sharded"
    ways = ("baseline", "sharded")
    excludes = ("narrow", "prune", "subnets", "workers")

    def options(self) -> Mapping[str, Any]:
        return {"workers": self.value, "aggregate": "shared"}

    def why_not(self, seen: Seen) -> str:
        return f"there are {seen.cpus} CPUs" if self.value is not None and self.value > seen.cpus else ""

    @classmethod
    def tried(cls, seen: Seen) -> Iterable[Lever]:
        return [cls(seen.cpus)] if seen.cpus > 1 else []


class Sync(Lever):
    """Shards meet every so many steps only and then average their weights (local SGD); the default is every step."""

    name, group, help = "sync", HARDWARE, "steps between two meetings of shards, which then average their weights"
    kind, least, changes, ways = int, 2, True, ("sharded",)

    def options(self) -> Mapping[str, Any]:
        return {"aggregate": "local", "sync_every": self.value}

    def why_not(self, seen: Seen) -> str:
        return "" if seen.cpus > 1 else "there is one CPU, and so one rank"

    @classmethod
    def tried(cls, seen: Seen) -> Iterable[Lever]:
        return [cls(4), cls(16)]
