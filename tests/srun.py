"""What stands in for Slurm's `srun` where there is no Slurm: `srun --mpi=pmi2 -n N COMMAND...`, on this machine.

It does what ranks and their kernel see of it: starts N tasks, none of them by mpiexec; is the process manager that
their MPI asks (PMI, version 1, which Slurm's plugin `pmi2` answers too); passes its standard input on to every task;
ends when all have ended, and all at once when one ends badly or it is told to. Queues, allocations and hosts it has
none.
"""

from __future__ import annotations

import os
import re
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import NoReturn

MAPPING = "PMI_process_mapping"
ANSWERS: dict[str, Callable[[int], str]] = {
    "init": lambda size: "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0",
    "get_maxes": lambda size: "cmd=maxes kvsname_max=256 keylen_max=64 vallen_max=1024 rc=0",
    "get_appnum": lambda size: "cmd=appnum appnum=0 rc=0",
    "get_my_kvsname": lambda size: "cmd=my_kvsname kvsname=job rc=0",
    "get_universe_size": lambda size: f"cmd=universe_size size={size} rc=0",
    "finalize": lambda size: "cmd=finalize_ack rc=0",
}


class Step:
    """So many tasks, and what they tell each other before they can speak by MPI."""

    def __init__(self, size: int, command: list[str]) -> None:
        self._size, self._waiting = size, list[socket.socket]()
        self._store = {MAPPING: f"(vector,(0,1,{size}))"}  # one host, all on it
        self._tasks: list[subprocess.Popen[bytes]] = []
        self._selector = selectors.DefaultSelector()
        told = sys.stdin.buffer.readline()
        for rank in range(size):
            mine, its = socket.socketpair()
            with its:
                names = {"PMI_FD": its.fileno(), "PMI_RANK": rank, "PMI_SIZE": size, "SLURM_PROCID": rank}
                task = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    pass_fds=[its.fileno()],
                    env={**os.environ, **{name: str(value) for name, value in names.items()}},
                )
            assert task.stdin is not None
            with task.stdin as into:
                into.write(told)
            self._tasks.append(task)
            self._selector.register(mine, selectors.EVENT_READ, mine.makefile("rb"))

    def serve(self) -> int:
        """Answer until all have said all; the worst of their ends."""
        while self._selector.get_map():
            for chosen, _ in self._selector.select(0.1):
                line = chosen.data.readline().decode()
                if line:
                    self._answer(chosen.fileobj, line)
                else:
                    self._selector.unregister(chosen.fileobj)
            if any(task.poll() for task in self._tasks):
                self.end()
        return max(abs(task.wait()) for task in self._tasks)

    def end(self, *_: object) -> NoReturn:
        """End every task, and oneself."""
        for task in self._tasks:
            task.kill()
        for task in self._tasks:
            task.wait()
        print("srun: error: a task ended, or the step was cancelled", file=sys.stderr)
        sys.exit(1)

    def _answer(self, task: socket.socket, line: str) -> None:
        said = dict(re.findall(r"(\w+)=(\S*)", line))
        match said["cmd"]:
            case "put":
                self._store[said["key"]] = said["value"]
                reply = "cmd=put_result rc=0 msg=success"
            case "get":
                value = self._store.get(said["key"])
                reply = f"cmd=get_result rc={-(value is None)} msg=success value={value}"
            case "barrier_in":
                self._waiting.append(task)
                if len(self._waiting) < self._size:
                    return
                for each in self._waiting:
                    each.sendall(b"cmd=barrier_out rc=0\n")
                self._waiting.clear()
                return
            case known:
                reply = ANSWERS[known](self._size)
        task.sendall(f"{reply}\n".encode())


def main(words: list[str]) -> int:
    """`srun` as far as it is known here."""
    at = words.index("-n")
    step = Step(int(words[at + 1]), words[at + 2 :])
    signal.signal(signal.SIGTERM, step.end)
    return step.serve()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
