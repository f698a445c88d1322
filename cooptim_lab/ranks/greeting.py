"""How a rank finds its kernel and says who it is (meeting.py is the other side).

Connections are opened here and handed on; what is then said on them is not known here.
"""

from __future__ import annotations

import os
import socket
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..hardware import allowed_cpus
from .meeting import Meeting
from .parcel import machine
from .traces import open_segments
from .wire import Hello


def find_meeting(directory: Path | None, world: Any) -> Meeting:
    """Where the kernel is. Collective, where it is not this machine's."""
    if directory is not None:
        return Meeting.read(directory)
    line = sys.stdin.buffer.readline() if world.Get_rank() == 0 else b""
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)  # what programs find, and nothing of the key
    line = world.bcast(line, root=0)
    if not line:
        sys.exit(
            "rank 0 was told nothing on its standard input, where it learns where the notebook is: the launcher must "
            f"pass it on (or mpi4py uses another MPI than the launcher: this rank sees {world.Get_size()} ranks)"
        )
    return Meeting.loads(line)


def greet(meeting: Meeting, world: Any) -> tuple[Connection, list[socket.socket]]:
    """Connect in every role: `control`, and where output goes through TCP, that."""
    from mpi4py import MPI

    rank, printed = world.Get_rank(), []
    streams = [(meeting.connect(role, rank), descriptor) for role, descriptor in (("stdout", 1), ("stderr", 2))]
    control = meeting.connect("control", rank)
    for connection, descriptor in streams:  # only now that nothing is left to be said to the launcher
        os.dup2(connection.fileno(), descriptor)
        if not isinstance(meeting.address, str):
            printed.append(socket.socket(fileno=os.dup(connection.fileno())))
        connection.close()
    control.send(
        Hello(
            rank,
            world.Get_size(),
            socket.gethostname(),
            os.getpid(),
            " ".join(MPI.Get_library_version().splitlines()[0].strip("\0").split()),
            machine(),
            allowed_cpus(),
            tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else (),
            tuple(open_segments(os.getpid())),
        )
    )
    return control, printed
