"""The files that processes of MPI leave when they are killed: which ones a process has, and when new ones appear.

Shared memory in /dev/shm: MPICH's, UCX's and Open MPI's. In /tmp, whatever TMPDIR says: the machine's topology, which
Hydra writes for its ranks and keeps open. A file is known by the process that has it, never by its name alone: other
launches have files of the same names. Linux; elsewhere nothing is found.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from pathlib import Path

import psutil

SHARED = "/dev/shm/"
SEGMENTS = ("mpich_shm", "mpich_shar_tmp", "sm_segment", "ucx_shm_posix")  # the second: of windows
TOPOLOGY = "/tmp/hydra_hwloc_xmlfile_"
IN_CREATE = 0x100  # <sys/inotify.h>
EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows


def open_segments(pid: int) -> set[str]:
    """The files of MPI in /dev/shm that a process has mapped; empty where the system has no such directory."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    return {line.split(maxsplit=5)[5] for line in maps if is_segment(line)}


def is_segment(line: str) -> bool:
    """Whether a line of a process's maps, or a path, is about MPI's shared memory that has a name still."""
    return any(SHARED + name in line for name in SEGMENTS) and "(deleted)" not in line


def open_files(pid: int) -> set[str]:
    """All that a process would leave: shared memory, and the topology that it has written."""
    found = open_segments(pid)
    try:
        # Not `os.scandir`: it stays open where the process ends while it is read.
        descriptors = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - of every descriptor: pathlib would take longer
    except OSError:  # it has ended
        return found
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # closed meanwhile: the others count
            path = os.readlink(f"/proc/{pid}/fd/{descriptor}")  # noqa: PTH115 - as above
            # Shared memory that has just been made is open before it is mapped.
            if (path.startswith(TOPOLOGY) or is_segment(path)) and "(deleted)" not in path:
                found.add(path)
    return found


def remove(files: set[str]) -> None:
    """Remove those that are there still."""
    for file in files:
        Path(file).unlink(missing_ok=True)


def children_of(pid: int) -> list[int]:
    """The children of a process; what it has adopted is among them."""
    try:
        lists = [(task / "children").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:  # it has ended, or this kernel does not tell: then by looking at all processes
        try:
            return [child.pid for child in psutil.Process(pid).children()]
        except psutil.NoSuchProcess:
            return []
    return [int(child) for text in lists for child in text.split()]


def files_below(pid: int) -> set[str]:
    """What the descendants of a process would leave."""
    found: set[str] = set()
    for child in children_of(pid):
        found |= open_files(child) | files_below(child)
    return found


class Watch:
    """Notices that a process of MPI, whoever's it is, makes shared memory.

    Attributes
    ----------
    descriptor : int | None
        To be polled; None where the system cannot tell.
    """

    def __init__(self) -> None:
        self.descriptor: int | None = None
        if sys.platform != "linux":
            return
        libc = ctypes.CDLL(None)
        descriptor = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if descriptor < 0:  # there are as many as a user may have
            return
        if libc.inotify_add_watch(descriptor, SHARED.encode(), IN_CREATE) < 0:
            os.close(descriptor)
            return
        self.descriptor = descriptor

    def read(self) -> bool:
        """Whether what has appeared is of MPI's names; call it when there is something to read."""
        assert self.descriptor is not None
        try:
            data, at, names = os.read(self.descriptor, 1 << 16), 0, list[str]()
        except BlockingIOError:
            return False
        while at < len(data):
            length = EVENT.unpack_from(data, at)[3]
            at += EVENT.size + length
            names.append(os.fsdecode(data[at - length : at].rstrip(b"\0")))
        return any(name.startswith(SEGMENTS) for name in names)
