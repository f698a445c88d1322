"""The kernel's handle on a guard (guard.py): start it with what it is to run, tell it, hear what its tree prints.

Knows neither ranks nor their connections.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import starting
from .lines import Lines

CHUNK = 1 << 16
KEPT_LINES = 200


class Guard:
    """A guard and what it runs; both end together.

    Parameters
    ----------
    directory
        Goes with it.
    told
        The file that the command reads.
    command, environment
        What it runs.

    Attributes
    ----------
    said : deque[str]
        The last lines that the command (a launcher) has printed.
    """

    def __init__(self, directory: Path, told: Path, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.said: deque[str] = deque(maxlen=KEPT_LINES)
        self._lines = Lines()
        self._telling = threading.Lock()
        guard = starting.command("guard", str(os.getpid()), str(directory), str(told))
        self._process = subprocess.Popen(
            [*guard, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Kernel -> Interrupt signals the kernel's group; the ranks are told otherwise
            env=starting.put_aside(environment),
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        os.set_blocking(self._output.fileno(), False)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def fileno(self) -> int:
        """Of what it prints, for a selector."""
        return self._output.fileno()

    def read(self) -> str | None:
        """Keep what has been printed, and return what lines are whole; None when all has ended that it runs, and it."""
        data = self._output.read(CHUNK)
        if data is None:
            return ""
        whole = self._lines.feed(data, last=not data)
        self.said.extend(line for line in whole.split("\n") if line.strip())
        return whole if data else None

    def rest(self) -> str:
        """What has been printed of a line whose end will not come, as a line."""
        rest = self._lines.feed(b"", last=True)
        self.said.extend(rest.split("\n")[:-1])
        return rest

    def end(self) -> None:
        """Have it take everything down. Returns at once."""
        self._tell(["end"])

    def remember(self, segments: Sequence[str]) -> None:
        """Shared-memory files that are to go with everything else."""
        self._tell(segments)

    def wait(self, seconds: float) -> None:
        """For its end, so long at the most."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def close(self) -> None:
        """Close the pipes to it, which ends it as well."""
        self._output.close()
        with self._telling:
            self._input.close()

    def _tell(self, lines: Sequence[str]) -> None:
        with self._telling, contextlib.suppress(OSError, ValueError):  # it has ended by itself, or the pipe is closed
            os.write(self._input.fileno(), "".join(f"{line}\n" for line in lines).encode())
