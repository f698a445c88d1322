"""The one process that owns the whole tree of ranks and outlives nothing.

    python -P started.py cooptim_lab.ranks.guard KERNEL_PID DIRECTORY INPUT COMMAND...

It runs COMMAND (mpiexec and its ranks), which reads the file INPUT, in a session of its own, adopts what the tree
orphans, and takes everything down as soon as its stdin ends (the kernel closed it, or died), the kernel is gone, or
COMMAND has ended. "Everything" is every descendant, the files that they would leave (traces.py), and DIRECTORY. A line
on stdin names a further file, or says "end": a process that the kernel forked may hold its end of the pipe open.

Single-threaded, imports nothing heavy, knows nothing of what the ranks do. On Linux it is a child subreaper and COMMAND
dies with it; elsewhere orphans cannot be adopted, and ranks end by themselves when their control connection does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from .traces import Watch, files_below, open_files, remove

GRACE_SECONDS = 0.3  # between SIGTERM and SIGKILL
LOOK_SECONDS = 0.05  # after this, who has made a file in /dev/shm has mapped it
CHECK_SECONDS = 0.5  # how often to look for the kernel where the system cannot tell of its end
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # <linux/prctl.h>
IS_LINUX = sys.platform == "linux"


def main(arguments: list[str]) -> int:
    """Run the command, wait for a reason to end, leave nothing."""
    kernel, directory, source, command = int(arguments[0]), Path(arguments[1]), Path(arguments[2]), arguments[3:]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only the three reasons above end it
    if IS_LINUX:
        prctl(PR_SET_CHILD_SUBREAPER, 1)
    files: set[str] = set()
    try:
        prepare = die_with_parent if IS_LINUX else None  # safe: this process has one thread
        with source.open("rb") as told, subprocess.Popen(command, stdin=told, preexec_fn=prepare) as child:  # noqa: PLW1509
            watch(kernel, child, files)
            take_down(files)
    except OSError as error:
        print(f"cannot run {error.filename or command[0]}: {error.strerror}", flush=True)
    finally:
        remove(files)
        shutil.rmtree(directory, ignore_errors=True)
    return 0


def prctl(option: int, value: int) -> None:
    """Linux's prctl(2)."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def die_with_parent() -> None:
    """In the child, before COMMAND: take back the ignored signals, and end when the guard does."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def watch(kernel: int, child: subprocess.Popen[bytes], files: set[str]) -> None:
    """Wait until stdin ends, the kernel is gone or the child has ended.

    Gathers the files that are named on stdin, and those of the tree when it makes shared memory: what the launcher
    has ended by then, a rank that a rank has spawned for one, cannot be asked any more.
    """
    poller = select.poll()
    poller.register(0, select.POLLIN | select.POLLHUP)
    handles = []
    if IS_LINUX:
        for pid in (kernel, child.pid):
            try:
                handles.append(os.pidfd_open(pid))
            except ProcessLookupError:
                return  # gone already
            poller.register(handles[-1], select.POLLIN)
    made, is_to_look = Watch(), False
    if made.descriptor is not None:
        poller.register(made.descriptor, select.POLLIN)
    pending = b""
    while True:
        patience = LOOK_SECONDS if is_to_look else None if IS_LINUX else CHECK_SECONDS
        ready = [descriptor for descriptor, _ in poller.poll(None if patience is None else patience * 1000)]
        if any(descriptor in handles for descriptor in ready):
            return
        if not IS_LINUX and (child.poll() is not None or not psutil.pid_exists(kernel)):
            return
        if made.descriptor in ready:
            is_to_look = made.read() or is_to_look
        elif is_to_look:
            files |= files_below(os.getpid())
            is_to_look = False
        if 0 in ready:
            data = os.read(0, 65536)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            if b"end" in lines:
                return
            files.update(os.fsdecode(line) for line in lines)


def take_down(files: set[str]) -> None:
    """End every descendant: SIGTERM, a moment, SIGKILL until none is left. Gathers their files before."""
    me, asked = psutil.Process(), set[psutil.Process]()
    deadline = time.monotonic() + GRACE_SECONDS
    while tree := me.children(recursive=True):  # also what was started or adopted meanwhile
        for process in tree:
            files |= open_files(process.pid)
        left = deadline - time.monotonic()
        for process in tree:
            if left <= 0 or process not in asked:
                _signal(process, signal.SIGKILL if left <= 0 else signal.SIGTERM)
        asked.update(tree)
        psutil.wait_procs(tree, timeout=left if left > 0 else GRACE_SECONDS)
        _reap()


def _signal(process: psutil.Process, number: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # it went by itself
        process.send_signal(number)


def _reap() -> None:
    """Collect adopted children, so that no zombie is counted as alive."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(0.005)
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
