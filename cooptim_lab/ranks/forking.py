"""The kernel's handle on the nursery (nursery.py): started under a guard, known to be ready, heard of how ranks ended.

Imports nothing heavy: the extension starts the nursery the moment it is loaded.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from . import starting
from .living import handle_of, is_over
from .places import make_directory

END_SECONDS = 5.0
"""How long its guard may take to take everything down, which takes a fraction of it."""
GONE_SECONDS = 0.2
READY_SECONDS = 60.0
"""After so long it is given up, and ranks start as processes of their own."""
STUB = Path(__file__).with_name("stub.py")
SWITCH = "COOPTIM_NURSERY"
"""Environment variable: "off" starts every rank as a process of its own."""


class Nursery:
    """A process that has imported torch, for ranks to be forked from.

    Attributes
    ----------
    ended : dict[int, int]
        Wait status of every rank that has ended, by its pid.
    said : list[str]
        What it printed that is no message: why it could not be made, if it could not.
    """

    def __init__(self) -> None:
        self.ended: dict[int, int] = {}
        self.said: list[str] = []
        self._settled = threading.Event()
        self._is_ready = False
        self._pid: int | None = None
        self._end: int | None = None  # readable once it is gone, before its guard has tidied up
        self._directory = make_directory()
        kernel, place = str(os.getpid()), str(self._directory)
        self._process = subprocess.Popen(
            [*starting.command("guard", kernel, place, os.devnull), *starting.command("nursery", kernel, place)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A BLAS that makes its threads when it is loaded would leave them here; ranks set their own number.
            env=starting.put_aside({**os.environ, "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "agg"}),
        )
        self._listener = threading.Thread(target=self._listen, name="cooptim-nursery", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int | None:
        """Of the process, once it is ready."""
        return self._pid

    @property
    def guard(self) -> int:
        """Process id of the guard that owns it."""
        return self._process.pid

    @property
    def directory(self) -> Path:
        """Where its socket is."""
        return self._directory

    @property
    def is_usable(self) -> bool:
        """Whether ranks can be forked, or it may yet be so."""
        return self._is_alive() and (self._is_ready or not self._settled.is_set())

    def is_gone(self) -> bool:
        """Whether it has ended, giving an end that has just come a moment to be seen."""
        deadline = time.monotonic() + GONE_SECONDS
        while self._is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self._is_alive()

    def wait_until_ready(self, cancelled: Callable[[], bool] = lambda: False) -> bool:
        """Wait for the imports; returns whether ranks can be forked now."""
        for _ in range(int(READY_SECONDS * 10)):
            if self._settled.wait(0.1) or cancelled():
                break
        return self._is_ready and self._is_alive()

    def reason(self) -> str:
        """Why ranks cannot be forked."""
        return self.said[-1] if self.said else "the process that has torch imported did not become ready"

    def rank_command(self, directory: Path) -> list[str]:
        """What mpiexec is to start for each rank of the launch that lives in `directory`."""
        return [sys.executable, "-I", "-S", str(STUB), str(self._directory / "nursery"), str(directory)]

    def close(self) -> None:
        """End it, and every rank that was forked from it. Returns when it is gone."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        if self._process.poll() is None:
            self._process.kill()  # the nursery sees it
            self._process.wait(END_SECONDS)
        self._listener.join(2)
        if self._end is not None:
            os.close(self._end)
            self._end = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def _is_alive(self) -> bool:
        if self._process.poll() is not None:
            return False
        return self._end is None or not is_over(self._end)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                try:
                    message = json.loads(line)
                except ValueError:
                    self.said.append(line.decode(errors="replace").rstrip())
                    continue
                if "ready" in message:
                    self._pid = pid = message["ready"]
                    with contextlib.suppress(ProcessLookupError):  # then its guard ends as well
                        self._end = handle_of(pid)
                    self._is_ready = True
                    self._settled.set()
                elif "pid" in message:
                    # Another one: whoever reads what there was, in another thread, is not to see it change.
                    self.ended = {**self.ended, message["pid"]: message["status"]}
        self._is_ready = False
        self._settled.set()


def current_nursery() -> Nursery | None:
    """The shared nursery if there is one already."""
    return _shared


_shared: Nursery | None = None
_sharing = threading.Lock()


def shared_nursery() -> Nursery | None:
    """This process's nursery, started when it is first asked for; None where ranks cannot be forked."""
    global _shared  # noqa: PLW0603 - one nursery per process is the point
    if sys.platform != "linux" or os.environ.get(SWITCH) == "off":
        return None
    with _sharing:
        if _shared is None or not _shared.is_usable:
            if _shared is not None:
                _shared.close()
            else:
                atexit.register(close_shared_nursery)
            _shared = Nursery()
        return _shared


def close_shared_nursery() -> None:
    """End it, if there is one."""
    global _shared  # noqa: PLW0603
    with _sharing:
        if _shared is not None:
            _shared.close()
        _shared = None
