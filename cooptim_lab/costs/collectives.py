"""Collective calls, as rounds of messages: who sends what to whom. Rank 0 is the root.

Which rounds those are is MPICH's choice, as in Thakur, Rabenseifner & Gropp, "Optimization of collective communication
operations in MPICH", IJHPCA 19(1), 2005, and for calls that do not block in MPICH's own table
(maint/tuning/coll/mpir/generic.json). Another MPI may choose others.
"""

from __future__ import annotations

from collections.abc import Sequence

from .links import Message, Round

SHORT_REDUCTION = 2048
"""Bytes up to which MPICH adds whole vectors instead of parts of them."""
SHORT_BROADCAST, FEW_RANKS = 12288, 8
"""Below so many bytes, or so few ranks, MPICH sends a broadcast down a tree, whole."""


def gather(ranks: int, size: float) -> list[Round]:
    """`size` bytes of every rank to rank 0, up a binomial tree: ⌈lg M⌉ α + (M − 1) n/β on equal links.

    Thakur et al.; the last message carries half of all.
    """
    rounds, mask = [], 1
    while mask < ranks:
        senders = range(mask, ranks, 2 * mask)
        rounds.append(Round(tuple((r, r - mask, min(mask, ranks - r) * size) for r in senders)))
        mask *= 2
    return rounds


def star(ranks: int, size: float) -> list[Round]:
    """`size` bytes of every rank straight to rank 0, which takes them one after the other: (M − 1)(α + n/β)."""
    return [Round(((rank, 0, size),)) for rank in range(1, ranks)]


def broadcast(hosts: Sequence[int], size: float) -> list[Round]:
    """`size` bytes of rank 0 to all: first to one rank of every host, then inside the hosts.

    Each time down a binomial tree, ⌈lg M⌉ (α + n/β) on equal links; among 8 ranks or more, if it is not short, as
    parts that are then collected round a ring, (⌈lg M⌉ + M − 1) α + 2 (M − 1)/M n/β (van de Geijn). Thakur et al.;
    that hosts come first is MPICH's `smp` variant.
    """
    groups: dict[int, list[int]] = {}
    for rank, host in enumerate(hosts):
        groups.setdefault(host, []).append(rank)
    rounds = _broadcast([group[0] for group in groups.values()], size)
    inside = [_broadcast(group, size) for group in groups.values()]
    for step in range(max(map(len, inside))):
        rounds.append(Round(tuple(m for each in inside if step < len(each) for m in each[step].messages)))
    return rounds


def _broadcast(ranks: Sequence[int], size: float) -> list[Round]:
    """From the first of some ranks to all of them."""
    count = len(ranks)
    whole = size < SHORT_BROADCAST or count < FEW_RANKS
    rounds = []
    for one in reversed(gather(count, 1)):  # a broadcast's tree is a gather's, the other way
        messages = ((ranks[to], ranks[r], size if whole else part * size / count) for r, to, part in one.messages)
        rounds.append(Round(tuple(messages)))
    if not whole:
        around = tuple((ranks[i], ranks[(i + 1) % count], size / count) for i in range(count))
        rounds += [Round(around)] * (count - 1)
    return rounds


def allreduce(ranks: int, size: float) -> list[Round]:
    """The sum of `size` bytes of all ranks, to all. On M = 2^k equal links:

    up to 2 kB by recursive doubling,      lg M (α + n/β + n γ);
    else by Rabenseifner's algorithm,      2 lg M α + 2 (M − 1)/M n/β + (M − 1)/M n γ,

    which halves the vector with a neighbour, the half with the next but one, and so on, and then goes the way back.
    Of other M, M − 2^k ranks first give theirs to a neighbour and get the sum at the end. Thakur et al.; Rabenseifner,
    "Optimization of collective reduction operations", ICCS 2004.

    MPI_Iallreduce takes no notice of hosts (MPI_Allreduce does): with an uneven number of ranks on them, more bytes
    go between hosts than need to.
    """
    power = 1 << (ranks.bit_length() - 1)
    rest = ranks - power
    active = [*range(1, 2 * rest, 2), *range(2 * rest, ranks)]
    even = range(0, 2 * rest, 2)
    before = [Round(tuple((r, r + 1, size) for r in even), size)] if rest else []
    after = [Round(tuple((r + 1, r, size) for r in even))] if rest else []
    masks = [1 << k for k in range(power.bit_length() - 1)]
    if size <= SHORT_REDUCTION:
        return [*before, *(Round(_exchange(active, mask, size), size) for mask in masks), *after]
    halves = [_exchange(active, mask, size / (2 * mask)) for mask in masks]
    down = [Round(half, size / (2 * mask)) for half, mask in zip(halves, masks, strict=True)]
    return [*before, *down, *(Round(half) for half in reversed(halves)), *after]


def _exchange(ranks: Sequence[int], mask: int, size: float) -> tuple[Message, ...]:
    return tuple((ranks[i], ranks[i ^ mask], size) for i in range(len(ranks)))


def across(hosts: Sequence[int], size: float) -> list[Round]:
    """The sum of `size` bytes of every host, to all hosts: a part by each set of ranks, one of every host.

    As many sets as the smallest host has ranks; all at the same time. What `shared` sends between hosts.
    """
    groups: dict[int, list[int]] = {}
    for rank, host in enumerate(hosts):
        groups.setdefault(host, []).append(rank)
    sets = list(zip(*groups.values(), strict=False))
    rounds = []
    for one in allreduce(len(groups), size / len(sets)):
        messages = [(each[r], each[to], sent) for each in sets for r, to, sent in one.messages]
        rounds.append(Round(tuple(messages), one.added))
    return rounds


def ring(ranks: int, size: float) -> list[Round]:
    """The same sum round a ring: 2 (M − 1) α + 2 (M − 1)/M n/β + (M − 1)/M n γ on equal links.

    No algorithm sends less than 2 (M − 1)/M n per rank, which stays below 2 n however many there are: Patarasuk &
    Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", JPDC 69(2), 2009.
    """
    if ranks == 1:
        return []
    around = tuple((r, (r + 1) % ranks, size / ranks) for r in range(ranks))
    return [Round(around, size / ranks)] * (ranks - 1) + [Round(around)] * (ranks - 1)
