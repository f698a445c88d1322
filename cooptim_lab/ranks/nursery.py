"""The process that ranks are forked from: it has imported torch once, and nothing of it has been used.

    python -P started.py cooptim_lab.ranks.nursery KERNEL_PID DIRECTORY

It waits at a socket in DIRECTORY for stubs (stub.py), which mpiexec starts. For each it forks a child that takes over
the stub's environment and descriptors and becomes a rank: mpiexec still decides who runs where, and each rank
initialises MPI by itself. A rank lives as long as its stub; all of them, and the nursery, as long as the kernel.

What a rank's program has started ends with the rank: each rank adopts what its own tree orphans, and the nursery what a
rank leaves, which it ends. A guard (guard.py) owns the nursery and does the same for it; were that guard to be killed,
the nursery takes all down by itself.

Single-threaded when it forks, by proof and not by hope: a thread that the imports have left makes it refuse. CUDA is
not touched. What it has to say goes to stdout, a JSON object a line: `{"ready": ...}` with its process id, then
`{"pid": ..., "status": ...}` for every rank that has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import shutil
import signal
import socket
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .guard import PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, prctl, take_down
from .preloading import preload, reseed
from .traces import children_of, open_files, remove

IGNORED = (signal.SIGINT, signal.SIGHUP)  # the guard, which ends with the kernel, says SIGTERM
ORPHAN_SECONDS = 0.5
"""So long may what a rank has left take to end by itself: Python's own process that tidies shared memory needs it."""
SIZE = "PMI_SIZE"
"""What MPICH's launcher has in a rank's environment: how many there are. Another's ranks do not wait for each other
here."""


@dataclass
class _Child:
    """A rank, the stub that it lives for, and its launch."""

    pid: int
    stub: socket.socket
    launch: str


class _Gate:
    """Where the ranks of one launch wait, asleep, until the last of them is forked.

    The first would wait for the others in MPI, which looks again and again, and take the time that these need to be
    forked: 64 on 2 cores were ready after 35 s, and are so after 13.
    """

    def __init__(self, ranks: int) -> None:
        self.missing = ranks
        self._read, self._write = os.pipe()

    def passed(self) -> None:
        """In a rank: wait until it opens, which it does too when this process is gone."""
        os.close(self._write)
        os.read(self._read, 1)
        os.close(self._read)

    def close(self) -> None:
        """Open it: nobody is waited for any more."""
        os.close(self._read)
        os.close(self._write)


class Nursery:
    """Serves stubs until the kernel is gone."""

    def __init__(self, kernel: int, directory: Path) -> None:
        self._selector = selectors.DefaultSelector()
        self._children: dict[int, _Child] = {}
        self._gates: dict[str, _Gate] = {}  # by launch, those that are not complete
        self._orphans: dict[int, float] = {}  # what ranks have left, and until when it may end by itself
        self._owner = os.getppid()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(socket_path(directory)))
        socket_path(directory).chmod(0o600)
        self._listener.listen(256)
        self._kernel = os.pidfd_open(kernel)
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_write.setblocking(False)
        self._not_ranks: tuple[int, ...] = ()

    def serve(self) -> None:
        """Fork for every stub; pass on every end; take all down with the kernel."""
        signal.set_wakeup_fd(self._wake_write.fileno())
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        owner = os.pidfd_open(self._owner)
        prctl(PR_SET_PDEATHSIG, 0)  # it has more to do than to die
        for end in (owner, self._kernel):
            self._selector.register(end, selectors.EVENT_READ, "end")
        self._not_ranks = (owner, self._kernel)
        self._selector.register(self._listener, selectors.EVENT_READ, "stub")
        self._selector.register(self._wake_read, selectors.EVENT_READ, "child")
        say({"ready": os.getpid()})
        while True:
            for chosen, _ in self._selector.select(ORPHAN_SECONDS / 5 if self._orphans else None):
                match chosen.data:
                    case "end":
                        files: set[str] = set()
                        take_down(files)
                        remove(files)
                        return
                    case "stub":
                        self._take()
                    case "child":
                        self._wake_read.recv(4096)
                        self._reap()
                    case pid if pid in self._children:  # not one that was reaped a moment ago
                        # A stub is gone: so must its rank be; its end is reaped like any other.
                        self._selector.unregister(chosen.fileobj)
                        end_rank(pid)
            if self._orphans:
                self._end_orphans()

    def _take(self) -> None:
        stub, _ = self._listener.accept()
        _, uid, _ = struct.unpack("3i", stub.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        if uid != os.getuid():
            stub.close()
            return
        received: list[int] = []
        try:
            request = _heard(stub, received)
            launch = request["directory"]
            if launch not in self._gates:
                self._gates[launch] = _Gate(int(request["environment"].get(SIZE, 1)))
            pid = os.fork()
            if pid == 0:
                self._become_rank(request, received)
        except (OSError, ValueError):  # it died while it asked, or there is no room for a process: nobody's rank
            stub.close()
            return
        finally:
            for descriptor in received:
                os.close(descriptor)
        self._children[pid] = _Child(pid, stub, launch)
        self._selector.register(stub, selectors.EVENT_READ, pid)
        self._gates[launch].missing -= 1
        if self._gates[launch].missing <= 0:
            self._gates.pop(launch).close()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                pid = 0
            if pid == 0:
                break
            if pid not in self._children:  # what a rank had left
                self._orphans.pop(pid, None)
                continue
            child = self._children.pop(pid)
            say({"pid": pid, "status": status})
            with contextlib.suppress(KeyError):
                self._selector.unregister(child.stub)
            with contextlib.suppress(OSError):  # the stub may be gone
                child.stub.sendall(str(status).encode())
            child.stub.close()
        for launch in self._gates.keys() - {child.launch for child in self._children.values()}:
            self._gates.pop(launch).close()  # it was cut short
        self._end_orphans()

    def _end_orphans(self) -> None:
        """End what ranks have left: whoever is a child of this process and no rank. Its own children come here next."""
        now = time.monotonic()
        for pid in children_of(os.getpid()):
            if pid in self._children:
                continue
            remove(open_files(pid))
            if pid not in self._orphans:
                self._orphans[pid] = now + ORPHAN_SECONDS
                os.kill(pid, signal.SIGTERM)
            elif now > self._orphans[pid]:
                os.kill(pid, signal.SIGKILL)

    def _become_rank(self, request: dict[str, Any], received: list[int]) -> None:
        """In the child: leave what is the nursery's, take what is the stub's, run the rank. Does not return."""
        try:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            prctl(PR_SET_CHILD_SUBREAPER, 1)  # a daemon that its program makes is nobody else's
            os.setsid()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, *IGNORED):
                signal.signal(number, signal.SIG_DFL)
            self._selector.close()
            for closable in (
                self._listener,
                self._wake_read,
                self._wake_write,
                *(c.stub for c in self._children.values()),
            ):
                closable.close()
            for descriptor in self._not_ranks:
                os.close(descriptor)
            for launch, gate in self._gates.items():
                if launch == request["directory"]:
                    gate.passed()
                else:
                    gate.close()
            # Received numbers and wanted ones overlap: out of the way first, then each to its place.
            free = max(request["numbers"]) + 1  # of many ranks the launcher's own numbers are high
            moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, free) for descriptor in received]
            for descriptor in received:
                os.close(descriptor)
            for descriptor, number in zip(moved, request["numbers"], strict=True):
                os.dup2(descriptor, number, inheritable=True)
                os.close(descriptor)
            os.environ.clear()
            os.environ.update(request["environment"])
            os.chdir(request["folder"])
            reseed()
            from .rank import main

            main(Path(request["directory"]))
        except BaseException:  # noqa: BLE001 - it must not return into the nursery's own loop
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        finally:
            os._exit(1)


def _heard(stub: socket.socket, received: list[int]) -> dict[str, Any]:
    """What a stub asks for; the descriptors that it sends are appended to `received`.

    Raises
    ------
    OSError, ValueError
        When it ends before it has said all.
    """
    size, descriptors, _, _ = socket.recv_fds(stub, 8, 16)
    received += descriptors
    data = b""
    while len(data) < int.from_bytes(size, "big"):
        piece = stub.recv(1 << 20)
        if not piece:
            raise ConnectionError("the stub is gone")
        data += piece
    return json.loads(data)


def end_rank(pid: int) -> None:
    """Kill a rank and remove the shared memory that it had open, which nobody else may know of yet."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)  # lest it makes some between the look and its end
    files = open_files(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    remove(files)


def say(message: dict[str, Any]) -> None:
    """Tell the kernel."""
    with contextlib.suppress(OSError):  # it is gone: that is heard elsewhere
        os.write(1, json.dumps(message).encode() + b"\n")


def socket_path(directory: Path) -> Path:
    """Where stubs ask."""
    return directory / "nursery"


def main(kernel: int, directory: Path) -> None:
    """Be ready, serve, leave nothing."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    try:
        nursery = Nursery(kernel, directory)
        preload()
        nursery.serve()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
