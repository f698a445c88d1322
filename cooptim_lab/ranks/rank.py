"""One MPI rank: connects to its kernel, runs the programs it is sent, reports, waits for the next.

    mpiexec -n M python -P started.py cooptim_lab.ranks.rank [DIRECTORY]

DIRECTORY is the kernel's, on its own machine. Elsewhere rank 0 reads the meeting from its standard input, which mpiexec
passes on to it, and tells the others through MPI.

The main thread runs programs, and between them blocks on a queue: an idle rank uses no CPU. A thread of its own reads
the control connection, so that a rank can be stopped while it computes, and ends the process when the kernel goes.
What a program is for, and what becomes of its value, is the kernel's business.
"""

from __future__ import annotations

import faulthandler
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Sequence
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import cloudpickle
import psutil

from ..comm.context import Context
from ..comm.waiting import LONGEST, take_turns
from ..errors import InputError
from ..hardware.heap import Heap
from . import wire
from .greeting import find_meeting, greet
from .guard import prctl
from .imported import Imported
from .parcel import Store, unpack
from .printing import flush_output, see_off
from .spmd import run_cell, take_main
from .starting import SLACK, put_back
from .surroundings import Surroundings
from .tracebacks import one_line, own_traceback
from .traces import open_segments
from .wire import Begun, Failed, Finished, Happened, Leave, Start, Stop, Stored, Told
from .worlds import Worlds

LEFT = 4  # jobs
OURS = f"{__package__.partition('.')[0]}."
PAUSE_SECONDS = 5e-5
"""Between two looks at what other ranks want of MPI, at first; others have the cores to themselves meanwhile."""
INSISTING_SECONDS = 0.02
"""Between interrupts of a program that is to end and, while it imports, may not yet."""
IMPORTING = "<frozen importlib._bootstrap>"
PR_SET_TIMERSLACK = 29  # <linux/prctl.h>
EXIT_WITHOUT_KERNEL = 75  # EX_TEMPFAIL: the kernel went away


class Rank:
    """The rank's side of the service."""

    def __init__(self, control: Connection, worlds: Worlds, printed: Sequence[socket.socket] = ()) -> None:
        self._control, self._printed = control, printed
        self._sending = threading.Lock()
        self._inbox: queue.SimpleQueue[Start | wire.Rest | Leave] = queue.SimpleQueue()
        self._job: int | None = None  # what runs now
        self._is_ours = False  # whether it leaves nothing in its world
        self._worlds = worlds
        self._store, self._heap = Store(), Heap()
        # What the frames of the last jobs that were cut short held: MPI may still write to the buffers of operations
        # that had just begun, and would corrupt the heap if they were freed.
        self._left: deque[BaseException] = deque(maxlen=LEFT)
        self._pid = os.getpid()
        self._stop = Stop(job=-1)  # the last one heard; it may come before its job has begun
        self._interruptible = False
        signal.signal(signal.SIGINT, self._on_interrupt)
        self._surroundings, self._imported = Surroundings(), Imported()
        os.register_at_fork(after_in_child=control.close)  # a child speaks for nobody, nor hides its parent's end
        threading.Thread(target=self._listen, name="cooptim-control", daemon=True).start()

    def serve(self) -> None:
        """Run programs until told to leave."""
        message: Start | wire.Rest | Leave = wire.Rest()
        while not isinstance(message := self._next(is_at_rest=not isinstance(message, Start)), Leave):
            if isinstance(message, Start):
                self._run(message)

    def send(self, message: Any) -> None:
        """To the kernel; from any thread."""
        with self._sending:
            self._control.send(message)

    def _listen(self) -> None:
        try:
            self._hear()
        except (EOFError, OSError):
            pass
        except Exception:  # noqa: BLE001 - a rank that is deaf would outlive its kernel
            traceback.print_exc()
        for segment in open_segments(os.getpid()):  # no guard may be on this machine to do it
            Path(segment).unlink(missing_ok=True)
        os._exit(EXIT_WITHOUT_KERNEL)

    def _hear(self) -> None:
        while True:
            while self._is_to_end and not self._control.poll(INSISTING_SECONDS):
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            match message := self._control.recv():
                case Stop():
                    self._stop = message
                    if self._is_to_end:
                        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                case Start(job=job):
                    self.send(Begun(job))
                    self._inbox.put(message)
                case wire.Aside(job=job):
                    self.send(Begun(job))
                case wire.Ask():
                    self.send(tell())
                case wire.Store(job=job, file=file, data=data):
                    path = self._store.write(job, file, data)
                    if not data:
                        self.send(Stored(job, file, path))
                case wire.Forget(job=job):
                    self._store.forget(job)
                case _:
                    self._inbox.put(message)

    @property
    def _is_to_end(self) -> bool:
        """Whether what runs is to be interrupted and has not been."""
        return self._interruptible and self._stop.hard and self._stop.job == self._job

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """Raise it, unless a module is being imported, which would be left half-made: then the next one will."""
        if self._interruptible and not is_importing(frame):
            self._interruptible = False
            raise KeyboardInterrupt

    def _run(self, start: Start) -> None:
        self._job = start.job
        self._worlds.take(start.workers, start.job)
        try:
            reply = self._attempt(start)
        except KeyboardInterrupt:  # it came while an error was being told
            reply = Failed(start.job, "interrupt", "stopped", "")
        self._job = None
        if os.getpid() != self._pid:
            end_child(reply)
        flush_output()
        see_off(self._printed)
        if files := self._imported.fresh():
            self.send(wire.HasImported(files))
        is_clean = self._is_ours and isinstance(reply, Finished)
        if left := self._surroundings.restore() or self._worlds.end(is_clean=is_clean):
            self.send(wire.Unsound(start.job, left))
        self.send(reply)
        self._heap.give_back()

    def _attempt(self, start: Start) -> Finished | Failed:
        try:
            self._interruptible = True
            if self._stop == Stop(start.job, hard=True):
                raise KeyboardInterrupt
            return Finished(start.job, cloudpickle.dumps(self._call(start)))
        except InputError as error:
            self._interruptible = False
            self._left.append(error)
            return Failed(start.job, "input", str(error), "")
        except KeyboardInterrupt as error:
            self._left.append(error)
            return Failed(start.job, "interrupt", "stopped", "")
        except BaseException as error:  # noqa: BLE001 - whatever the program raised belongs to its user
            self._interruptible = False
            self._left.append(error)
            return Failed(start.job, "error", one_line(error), own_traceback(error))
        finally:
            self._interruptible = False

    def _call(self, start: Start) -> Any:
        start.carried.apply()
        set_threads(start.threads)
        take_turns(start.takes_turns)
        program, arguments = unpack(start.calls[0])
        self._is_ours = (
            getattr(program, "__module__", "").startswith(OURS) and program.__module__ != run_cell.__module__
        )
        for own in start.calls[1:]:
            arguments.update(unpack(own))
        context = Context(
            self._worlds.make(),
            report=lambda *events: self.send(Happened(start.job, events)),
            stopping=lambda: self._stop.job == start.job,
            threads=start.threads,
        )
        return program(context, **arguments)

    def _next(self, *, is_at_rest: bool) -> Start | wire.Rest | Leave:
        """The next message. Until all ranks are at rest, and the next world is made, MPI is kept at work meanwhile.

        One-sided access to this rank's memory needs it, and so do worlds.
        """
        pause = PAUSE_SECONDS
        while not (self._worlds.progress() and is_at_rest):
            try:
                return self._inbox.get(timeout=pause)
            except queue.Empty:
                pause = min(2 * pause, LONGEST)
        return self._inbox.get()


def is_importing(frame: FrameType | None) -> bool:
    """Whether what runs there is part of an import."""
    while frame is not None and frame.f_code.co_filename != IMPORTING:
        frame = frame.f_back
    return frame is not None


def end_child(reply: Finished | Failed) -> NoReturn:
    """Of a program that has forked: its child has come to the program's end, which is the child's."""
    if isinstance(reply, Failed):
        print(reply.traceback or reply.message, file=sys.stderr)
    flush_output()
    os._exit(isinstance(reply, Failed))


def set_threads(threads: int) -> None:
    """Let this rank's libraries use so many threads."""
    import threadpoolctl
    import torch

    if torch.get_num_threads() != threads:
        threadpoolctl.threadpool_limits(threads)
        torch.set_num_threads(threads)


def tell() -> Told:
    """How this process is."""
    me = psutil.Process()
    try:
        memory = me.memory_full_info().pss
    except (psutil.Error, AttributeError):  # no such number on macOS
        memory = None
    return Told(memory, me.num_threads())


def main(directory: Path | None) -> None:
    """Connect, serve, leave."""
    if SLACK in os.environ:
        prctl(PR_SET_TIMERSLACK, int(os.environ.pop(SLACK)))  # before MPI makes it wait for the others
    import torch  # noqa: F401 - once, before the kernel is told that this rank is ready
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    meeting = find_meeting(directory, world)
    try:
        control, printed = greet(meeting, world)
    except (OSError, EOFError, AuthenticationError) as error:
        who = f"rank {world.Get_rank()} on {socket.gethostname()}"
        print(f"{who} cannot reach the notebook at {meeting.address}: {error or type(error).__name__}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)  # Python's own end would wait in MPI for the other ranks
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()  # a segmentation fault leaves its traceback on stderr
    put_back()
    worlds = Worlds()
    take_main()
    Rank(control, worlds, printed).serve()
    flush_output()
    worlds.close()
    os._exit(0)  # Python's own end would only take longer, with torch in it


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
