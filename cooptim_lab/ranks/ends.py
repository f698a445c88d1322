"""Why a rank ended, in one line: from the nursery that saw it, or from what the launcher printed.

Only reads what others have kept; it neither watches ranks nor ends them.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Sequence

from ..hardware.cgroups import oom_kills
from .forking import Nursery
from .parcel import machine
from .room import describe_shared_memory
from .wire import Hello

WORD_SECONDS = 0.5
"""How long after a rank's end its cause may take to be told."""
LOOK_SECONDS = 0.02
FULL = re.compile(rf"EXIT CODE: {signal.SIGBUS:d}$|signal {signal.SIGBUS:d}\b")
"""What a launcher says of a rank that found no room in shared memory, which MPI does not ask for before it writes."""
KILLING_SIGNALS = {int(s) for s in (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE)}


class Ends:
    """Of the ranks of one launch, made when it begins.

    Parameters
    ----------
    said
        What the launcher has printed, growing.
    nursery
        What the ranks are forked from, if they are.
    is_here
        Whether this machine's own mpiexec starts them: a launcher may put them where others count their ends.
    """

    def __init__(self, said: Sequence[str], nursery: Nursery | None, *, is_here: bool) -> None:
        self._said, self._nursery, self._is_here = said, nursery, is_here
        self._oom_kills = oom_kills()
        self._before = set() if nursery is None else set(nursery.ended.items())

    def of_rank(self, hello: Hello) -> str:
        """What is known of the end of a rank that is gone, waiting a moment for it; a plain word where nothing is."""
        deadline = time.monotonic() + WORD_SECONDS
        while True:
            status = None if self._nursery is None else self._nursery.ended.get(hello.pid)
            if status is not None:
                code: int | None = os.waitstatus_to_exitcode(status)
            else:
                code = end_in_words_of_launcher("\n".join(self._said), hello.pid)
            if code is not None:
                return describe_end(code, self._out_of_memory(hello))
            if time.monotonic() > deadline:
                return " | ".join(["ended without a word", *list(self._said)[-2:]])
            time.sleep(LOOK_SECONDS)

    def of_launcher(self) -> str:
        """The launcher's last words."""
        return " | ".join(list(self._said)[-4:]) or "it said nothing"

    def before_ready(self) -> str:
        """What the launcher said of a start that failed, each thing once and without the frame around it."""
        new = {} if self._nursery is None else self._nursery.ended.items() - self._before
        is_full = any(os.waitstatus_to_exitcode(status) == -signal.SIGBUS for _, status in new)
        if is_full or any(FULL.search(line) for line in self._said):
            return describe_shared_memory()
        return " | ".join(dict.fromkeys(filter(is_telling, self._said))) or "nothing was printed"

    def _out_of_memory(self, hello: Hello) -> bool | None:
        """Whether the system has ended processes for want of memory since the start; None where it is not known."""
        now = oom_kills()
        if hello.machine != machine() or now is None or self._oom_kills is None:
            return None
        return now > self._oom_kills or (False if self._is_here else None)


def is_telling(line: str) -> bool:
    """Whether a line of a launcher's is more than the frame that it draws around the bad news."""
    return not line.startswith(("=", "---", "YOUR APPLICATION")) and line.strip() != ""


def end_in_words_of_launcher(said: str, pid: int) -> int | None:
    """How a process ended, in the words of MPICH's or Open MPI's launcher: its exit code, or minus the signal."""
    mpich = re.search(rf"PID {pid} RUNNING AT.*?EXIT CODE: (\d+)", said, re.DOTALL)
    if mpich:
        code = int(mpich[1])  # it says a signal's number and an exit code alike
        return -code if code in KILLING_SIGNALS else code
    open_mpi = re.search(rf"PID\s+{pid}\s+on\s+node\s+\S+\s+exited\s+on\s+signal\s+(\d+)", said)
    return -int(open_mpi[1]) if open_mpi else None


def describe_end(code: int, out_of_memory: bool | None = None) -> str:
    """How a process ended: its exit code, or minus the number of the signal that ended it."""
    if code >= 0:
        return f"ended with exit code {code}"
    why = {
        True: ": by the system's OOM killer, for want of memory",
        False: ": from outside, not for want of memory",
        None: ": by hand, or by the system for want of memory",
    }[out_of_memory]
    return f"was killed ({signal.Signals(-code).name}{why if -code == signal.SIGKILL else ''})"
