"""One MPI rank: connects to its kernel, runs the programs it is sent, reports, waits for the next.

    mpiexec -n M python -m cooptim_lab.ranks.rank DIRECTORY

The main thread runs programs, and between them blocks on a queue: an idle rank uses no CPU. A thread of its own reads
the control connection, so that a rank can be stopped while it computes, and ends the process when the kernel goes.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cloudpickle

from ..errors import InputError
from ..training.context import Context
from .guard import open_segments
from .parcel import unpack
from .wire import Failed, Finished, Happened, Hello, Leave, Start, Stop, connect

TAGS = 32768  # MPI promises as many
PACKAGE = Path(__file__).parent.parent
EXIT_WITHOUT_KERNEL = 75  # EX_TEMPFAIL: the kernel went away


class Rank:
    """The rank's side of the service."""

    def __init__(self, control: Connection, world: Any) -> None:
        self._control, self._world = control, world
        self._sending = threading.Lock()
        self._inbox: queue.SimpleQueue[Start | Leave] = queue.SimpleQueue()
        self._job: int | None = None  # what runs now
        self._communicators: dict[int, tuple[int, Any]] = {}
        self._stop = Stop(job=-1)  # the last one heard; it may come before its job has begun
        self._interruptible = False
        signal.signal(signal.SIGINT, self._on_interrupt)
        threading.Thread(target=self._listen, name="cooptim-control", daemon=True).start()

    def serve(self) -> None:
        """Run programs until told to leave."""
        while isinstance(message := self._inbox.get(), Start):
            self._run(message)

    def send(self, message: Any) -> None:
        """To the kernel; from any thread."""
        with self._sending:
            self._control.send(message)

    def _listen(self) -> None:
        while True:
            try:
                message = self._control.recv()
            except (EOFError, OSError):
                os._exit(EXIT_WITHOUT_KERNEL)
            if not isinstance(message, Stop):
                self._inbox.put(message)
                continue
            self._stop = message
            if message.hard and message.job == self._job:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def _on_interrupt(self, number: int, frame: Any) -> None:
        if self._interruptible:
            self._interruptible = False
            raise KeyboardInterrupt

    def _run(self, start: Start) -> None:
        self._job = start.job
        try:
            reply = self._attempt(start)
        except KeyboardInterrupt:  # it came while an error was being told
            reply = Failed(start.job, "interrupt", "stopped", "")
        self._job = None
        flush_output()
        self.send(reply)

    def _attempt(self, start: Start) -> Finished | Failed:
        try:
            self._interruptible = True
            if self._stop == Stop(start.job, hard=True):
                raise KeyboardInterrupt
            return Finished(start.job, cloudpickle.dumps(self._call(start)))
        except InputError as error:
            self._interruptible = False
            return Failed(start.job, "input", str(error), "")
        except KeyboardInterrupt:
            return Failed(start.job, "interrupt", "stopped", "")
        except BaseException as error:  # noqa: BLE001 - whatever the program raised belongs to its user
            self._interruptible = False
            return Failed(start.job, "error", _one_line(error), _own_traceback(error))
        finally:
            self._interruptible = False

    def _call(self, start: Start) -> Any:
        program, arguments = unpack(start.call)
        set_threads(start.threads)
        context = Context(
            self._communicator(start.workers, start.epoch),
            report=lambda event: self.send(Happened(start.job, event)),
            stopping=lambda: self._stop.job == start.job,
            threads=start.threads,
        )
        return program(context, **arguments)

    def _communicator(self, workers: int, epoch: int) -> Any:
        """Of the first `workers` ranks, kept from job to job: making one is collective, and cells may count on theirs.

        After a job that failed there is another, so that what was left in flight never meets what follows.
        """
        known, comm = self._communicators.get(workers, (-1, None))
        if known != epoch or not comm:
            group = self._world.Get_group().Range_incl([(0, workers - 1, 1)])
            comm = self._world.Create_group(group, epoch % TAGS)
            group.Free()
            self._communicators[workers] = (epoch, comm)
        return comm


def set_threads(threads: int) -> None:
    """Let this rank's libraries use so many threads."""
    import threadpoolctl
    import torch

    if torch.get_num_threads() != threads:
        threadpoolctl.threadpool_limits(threads)
        torch.set_num_threads(threads)


def flush_output() -> None:
    """Bring what Python and C have buffered to the descriptors, before the kernel is told that a program ended."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the program closed it
            stream.flush()
    ctypes.CDLL(None).fflush(None)


def _one_line(error: BaseException) -> str:
    return " ".join(traceback.format_exception_only(error)[-1].split())


def _own_traceback(error: BaseException) -> str:
    """The traceback from the first frame that is not this package's: where the user's own code begins."""
    frames = error.__traceback__
    while frames is not None and Path(frames.tb_frame.f_code.co_filename).is_relative_to(PACKAGE):
        frames = frames.tb_next
    frames = frames or error.__traceback__  # all of it is ours: then ours is what must be seen
    return "".join(traceback.format_exception(type(error), error, frames))


def main(directory: Path) -> None:
    """Connect, serve, leave."""
    import torch  # noqa: F401 - once, before the kernel is told that this rank is ready
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    rank = world.Get_rank()
    for role, descriptor in (("stdout", 1), ("stderr", 2)):
        connection = connect(directory, role, rank)
        os.dup2(connection.fileno(), descriptor)
        connection.close()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()  # a segmentation fault leaves its traceback on stderr
    control = connect(directory, "control", rank)
    control.send(
        Hello(
            rank,
            world.Get_size(),
            socket.gethostname(),
            os.getpid(),
            " ".join(MPI.Get_library_version().splitlines()[0].strip("\0").split()),
            tuple(open_segments(os.getpid())),
        )
    )
    kernel_path = control.recv()
    sys.path[:] = [*kernel_path, *(entry for entry in sys.path if entry not in kernel_path)]
    Rank(control, world).serve()
    flush_output()
    MPI.Finalize()
    os._exit(0)  # Python's own end would only take longer, with torch in it


if __name__ == "__main__":
    main(Path(sys.argv[1]))
