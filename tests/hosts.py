"""Two network namespaces that stand for two hosts, joined by one link of limited rate.

`a` is where the test (the notebook) itself runs; `b` has its own host name, its own view of processes, its own network:
what runs there is reached over the link alone. `Hosts.ssh` is a command that stands in for ssh.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cooptim_lab.hardware import find_mpiexec

NETWORK = "198.18"  # RFC 2544: for benchmarks of networks, in use nowhere else


@dataclass(frozen=True)
class Hosts:
    """The two hosts' addresses, and what stands in for ssh to the second."""

    a: str
    b: str
    ssh: Path
    device: str
    cpus: str = ""
    """Of `a`, where the hosts do not share them."""

    def cut(self) -> None:
        """Take the link down, as when a cable is pulled: nothing is told to either side."""
        _do("ip", "link", "set", self.device, "down")

    def launcher(self) -> str:
        """For `RankPool(launcher=...)`: mpiexec reaches the hosts by `ssh`.

        UCX, which carries MPICH's messages, takes two hosts under one kernel for one, and would map memory.
        """
        ssh = f"-launcher ssh -launcher-exec {self.ssh} -localhost {self.a}"
        start = f"taskset -c {self.cpus} {find_mpiexec()}" if self.cpus else "mpiexec"
        return f"{start} {ssh} -genv UCX_TLS tcp -n {{workers}} -hosts {{hosts}}"


def can_make_hosts() -> bool:
    """Whether this process may make network namespaces."""
    if shutil.which("ip") is None or shutil.which("tc") is None or os.geteuid() != 0:
        return False
    name = f"t{secrets.token_hex(3)}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
        return False
    subprocess.run(["ip", "netns", "del", name], check=True)
    return True


@contextmanager
def two_hosts(folder: Path, megabits: int = 100, *, apart: bool = False) -> Iterator[Hosts]:
    """Make them; nothing of them is left afterwards. `apart`: each has half of the CPUs, where there are two."""
    cpus = sorted(map(str, os.sched_getaffinity(0)))
    half = len(cpus) // 2 if apart else 0
    of_a, of_b = ",".join(cpus[:half]), ",".join(cpus[half:])
    tag = secrets.token_hex(3)
    space, here, there = f"lab{tag}", f"ha{tag}", f"hb{tag}"
    network = f"{NETWORK}.{secrets.randbelow(256)}"  # each pair of hosts has its own
    a, b = f"{network}.1", f"{network}.2"
    shape = ["root", "tbf", "rate", f"{megabits}mbit", "burst", "32kb", "latency", "400ms"]
    ssh = folder / "ssh"
    # As ssh does: options first, then the host, then words for a shell there.
    ssh.write_text(
        f"""#!/bin/sh
while [ "${{1#-}}" != "$1" ]; do shift; done
host=$1; shift
[ "$host" = {a} ] && exec sh -c "$*"
[ "$host" = {b} ] || {{ echo "ssh: Could not resolve hostname $host" >&2; exit 255; }}
exec taskset -c {of_b} ip netns exec {space} unshare --uts --pid --fork --kill-child --mount-proc sh -c "hostname b; $*"
"""
    )
    ssh.chmod(0o700)
    _do("ip", "netns", "add", space)
    try:
        _do("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", space)
        _do("ip", "addr", "add", f"{a}/30", "dev", here)
        _do("ip", "link", "set", here, "up")
        _do("ip", "-n", space, "addr", "add", f"{b}/30", "dev", there)
        for device in ("lo", there):
            _do("ip", "-n", space, "link", "set", device, "up")
        _do("tc", "qdisc", "add", "dev", here, *shape)
        _do("ip", "netns", "exec", space, "tc", "qdisc", "add", "dev", there, *shape)
        yield Hosts(a, b, ssh, here, of_a)
    finally:
        subprocess.run(["ip", "link", "del", here], capture_output=True, check=False)  # it may not have been made
        _do("ip", "netns", "del", space)


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
