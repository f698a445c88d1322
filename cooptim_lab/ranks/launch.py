"""How ranks are started: by which command, on which hosts, and where they can reach the kernel.

A launch without hosts and launcher is this machine's own: ranks may be forked, and meet the kernel at a Unix socket.
Every other one brings plain processes that come over TCP.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from dataclasses import dataclass
from ipaddress import ip_address

import psutil

from ..errors import InputError, PoolError
from ..hardware import allowed_cpus, find_mpiexec, find_program
from . import starting
from .meeting import source_address

WORKERS, HOSTS = "{workers}", "{hosts}"
ELSEWHERE = "192.0.2.1"  # RFC 5737, documentation: any address that only the default route leads to
LOOPBACK = "127.0.0.1"
CROWDED, SLACK_NANOSECONDS = 4, 50_000
"""Beyond so many ranks on a CPU, so much for each of them. Linux has 50,000 for every process: as often do ranks look
that wait, and 64 on 2 cores spend all their time so (ready after 13 s; with 1.6 ms after 6)."""


@dataclass(frozen=True)
class Launch:
    """Where ranks run and what starts them.

    Attributes
    ----------
    hosts
        (name, ranks it has room for); none: this machine, or wherever the launcher puts them.
    launcher
        The words of the command, with `{workers}` (and if wanted `{hosts}`) in them; none: this environment's mpiexec.
    interface
        Name or address of the network interface that the hosts share; none: the one on the way to the hosts.
    """

    hosts: tuple[tuple[str, int], ...] = ()
    launcher: tuple[str, ...] = ()
    interface: str | None = None

    @staticmethod
    def parse(hosts: str | None = None, launcher: str | None = None, interface: str | None = None) -> Launch:
        """From what a user types: `a:4,b:4`, `srun -n {workers}`, `eth0`.

        Raises
        ------
        InputError
        """
        words = _read_launcher(launcher) if launcher is not None else ()
        places = tuple(_read_host(hosts, part.strip()) for part in hosts.split(",")) if hosts is not None else ()
        if words and places and not any(HOSTS in word for word in words):
            raise InputError(f"--launcher {launcher}: with --hosts, say where they go: put {HOSTS} into the launcher")
        if interface is not None and not (words or places):
            raise InputError("--interface goes with --hosts or --launcher: on one machine no network is used")
        return Launch(places, words, interface)

    @property
    def is_here(self) -> bool:
        """Whether all ranks run on this machine, by this environment's own mpiexec."""
        return not self.hosts and not self.launcher

    @property
    def room(self) -> int | None:
        """How many ranks the hosts have room for; None where there is no limit."""
        return sum(slots for _, slots in self.hosts) or None

    def check_room(self, workers: int) -> None:
        """Refuse more ranks than the hosts have room for.

        Raises
        ------
        InputError
        """
        if self.room is not None and workers > self.room:
            raise InputError(f"workers = {workers}: the hosts {self._hosts} have room for {self.room}; name more")

    def command(self, workers: int) -> list[str]:
        """What starts the ranks; the rank's own command follows.

        Raises
        ------
        InputError
            When there is no room for so many.
        PoolError
            When the launcher is not there.
        """
        self.check_room(workers)
        if self.launcher:
            program = find_program(self.launcher[0])
            if program is None:
                raise PoolError(f"launcher {self.launcher[0]} not found: give its path, or load its module")
            filled = {WORKERS: str(workers), HOSTS: self._hosts}
            words = [re.sub(r"{\w+}", lambda found: filled.get(found[0], found[0]), word) for word in self.launcher[1:]]
            return [str(program), *words]
        mpiexec = find_mpiexec()
        if mpiexec is None:
            raise PoolError("mpiexec not found: pip install mpich, or load your cluster's MPI module")
        where = ["-host", self._hosts] if self.hosts else []  # Hydra's and Open MPI's name for it
        return [str(mpiexec), "-n", str(workers), *where]

    def address(self) -> str | None:
        """This machine's address that the ranks' hosts can reach; None where no network is needed.

        Raises
        ------
        PoolError
            When there is no such interface, or no way to a host.
        """
        if self.is_here:
            return None
        if self.interface is not None:
            return _address_of(self.interface)
        if not self.hosts:
            try:
                return source_address(ELSEWHERE)[0]
            except OSError:  # no network: then the launcher brings ranks of this machine
                return LOOPBACK
        found = LOOPBACK
        for host, _ in self.hosts:
            try:
                found, there = source_address(host)
            except OSError as error:
                raise PoolError(f"host {host} cannot be reached: {error.strerror or error}") from None
            if found != there and not ip_address(found).is_loopback:
                break  # another machine: the others are on the same network
        return found

    @property
    def _hosts(self) -> str:
        return ",".join(f"{name}:{slots}" for name, slots in self.hosts)


def _read_launcher(text: str) -> tuple[str, ...]:
    try:
        # Doubled, as a notebook wants them where it knows variables of these names.
        words = tuple(shlex.split(text.replace(f"{{{WORKERS}}}", WORKERS).replace(f"{{{HOSTS}}}", HOSTS)))
    except ValueError as error:
        raise InputError(f"--launcher {text}: {error}") from None
    if not any(WORKERS in word for word in words):
        raise InputError(f"--launcher {text}: put {WORKERS} where the number of ranks goes, as in srun -n {WORKERS}")
    return words


def _read_host(hosts: str, part: str) -> tuple[str, int]:
    found = re.fullmatch(r"([A-Za-z0-9][\w.-]*)(?::([1-9]\d*))?", part, re.ASCII)
    if found is None:
        raise InputError(f"--hosts {hosts}: give names and how many ranks each has room for, as in a:4,b:4")
    return found[1], int(found[2] or 1)


def _address_of(interface: str) -> str:
    """An interface's IPv4 address, by its name or the address itself."""
    addresses = psutil.net_if_addrs()
    known = {entry.address for entries in addresses.values() for entry in entries}
    if interface in known:
        return interface
    for entry in addresses.get(interface, ()):
        if entry.family.name == "AF_INET":
            return entry.address
    there = ", ".join(sorted(addresses))
    raise PoolError(f"--interface {interface}: this machine has no such interface; it has {there}")


def rank_environment(launch: Launch, workers: int) -> dict[str, str]:
    """The kernel's environment for ranks; what the user has set stays as it is.

    More ranks than this machine's CPUs (measured with 4 and 8 ranks on 2 cores, MPICH 5.0.2): ranks that wait by
    spinning take the time of those that compute, one that works 20 ms while others wait needs 41 and 82 ms. With a
    heavy yield (a short sleep) it needs 22 and 26; a collective of ranks that do not wait costs 0.4 to 0.7 ms more.
    MPICH's progress throttle did not help: 41 and 82.
    """
    wanted = {
        # Open MPI, as MPICH does without being told: may run as root, may share CPUs, binds to none (threads are ours).
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "PRTE_MCA_hwloc_default_binding_policy": "none",
    }
    if launch.is_here and workers > allowed_cpus():
        wanted["MPIR_CVAR_ENABLE_HEAVY_YIELD"] = "1"
        if sys.platform == "linux" and workers > CROWDED * allowed_cpus():
            wanted[starting.SLACK] = str(SLACK_NANOSECONDS * workers // allowed_cpus())
    return {**wanted, **os.environ, "MPLBACKEND": "agg"}  # the notebook's own drawing backend is of no use to a rank
