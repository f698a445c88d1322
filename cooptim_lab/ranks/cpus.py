"""The CPUs of the machines that ranks are on: how many, for whom, and whether they suffice.

Reads what ranks said of themselves (`wire.Hello`), and nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from .wire import Hello


def count_cpus(hellos: Iterable[Hello]) -> int:
    """How many CPUs these ranks may use, on all their machines."""
    return sum({hello.machine: hello.cpus for hello in hellos}.values())


def share_cpus(hellos: Sequence[Hello]) -> list[int]:
    """Threads for each of these ranks: the CPUs it may use, over the ranks that share them; at least 1."""
    shared = Counter((hello.machine, hello.affinity) for hello in hellos)
    return [max(1, hello.cpus // shared[hello.machine, hello.affinity]) for hello in hellos]


def take_turns(hellos: Sequence[Hello]) -> list[bool]:
    """For each of these ranks, whether more of them share its CPUs than there are."""
    shared = Counter((hello.machine, hello.affinity) for hello in hellos)
    return [shared[hello.machine, hello.affinity] > hello.cpus for hello in hellos]


def crowded(hellos: Sequence[Hello]) -> list[str]:
    """What is to be said of machines that have fewer CPUs than ranks."""
    notes, machines = [], dict.fromkeys(hello.machine for hello in hellos)
    for machine in machines:
        here = [hello for hello in hellos if hello.machine == machine]
        places = {hello.affinity for hello in here}
        cpus = here[0].cpus if len(places) == 1 else len(set().union(*places))  # or each is bound to some of them
        if len(here) > cpus:
            where = f" on {here[0].host}" if len(machines) > 1 else ""
            notes.append(f"{len(here)} workers share {cpus} CPUs{where}: they take turns, do not expect a speedup")
    return notes
