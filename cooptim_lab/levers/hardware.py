"""Levers that change on how much of the machine it runs: ranks, threads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from .lever import HARDWARE, Lever, Seen


class Workers(Lever):
    """Ranks among which sub-networks are dealt."""

    name, group, help = "workers", HARDWARE, "ranks among which sub-networks are dealt"
    kind, least = int, 1
    ways = ("subnets",)

    def options(self) -> Mapping[str, Any]:
        return {"workers": self.value}

    def why_not(self, seen: Seen) -> str:
        return f"there are {seen.cpus} CPUs" if self.value is not None and self.value > seen.cpus else ""

    @classmethod
    def tried(cls, seen: Seen) -> Iterable[Lever]:
        return [cls(seen.cpus)] if seen.cpus > 1 else []


class Threads(Lever):
    """Threads of torch in each process. Torch's default is one for each CPU, which wait for each other by spinning."""

    name, group, help = "threads", HARDWARE, "threads of torch in each process"
    kind, least = int, 1

    def around(self) -> AbstractContextManager[Any]:
        assert self.value is not None
        return with_threads(int(self.value))

    def why_not(self, seen: Seen) -> str:
        return f"there are {seen.cpus} CPUs" if self.value is not None and self.value > seen.cpus else ""

    @classmethod
    def tried(cls, seen: Seen) -> Iterable[Lever]:
        return map(cls, fewer(seen.cpus))


@contextmanager
def with_threads(threads: int) -> Iterator[None]:
    """While it lasts, torch computes with so many."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fewer(threads: int) -> list[int]:
    """1, 2, 4, …, below `threads`."""
    return [1 << power for power in range(threads.bit_length()) if 1 << power < threads]
