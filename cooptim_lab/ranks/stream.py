"""One stream of what a rank prints: its whole lines, and now and then how the line looks that has no end yet.

Knows time and bytes; neither who reads nor who is told.
"""

from __future__ import annotations

import math
import os
import socket
import time
from multiprocessing.connection import Connection

from .lines import Lines

TELL_SECONDS = 0.1
"""The least time between two looks at an unfinished line: a progress bar is drawn more often than it can be read."""
SETTLE_SECONDS = 0.03
"""A line that was begun may have its end in the next bytes; then it was never unfinished."""


class Stream:
    """What comes over one connection.

    Attributes
    ----------
    socket : socket.socket
        Where it comes from, which does not block.
    due : float
        When the unfinished line is to be told, by `time.monotonic`; never (inf) while there is nothing new of it.
    """

    def __init__(self, connection: Connection) -> None:
        self.socket = socket.socket(fileno=os.dup(connection.fileno()))
        connection.close()
        self.socket.setblocking(False)
        self.due = math.inf
        self._lines = Lines()
        self._told = -math.inf  # when
        self._is_told = False  # whether somebody believes that there is an unfinished line

    def feed(self, data: bytes, *, last: bool = False) -> str:
        """The lines that these bytes complete, as `Lines.feed`."""
        whole = self._lines.feed(data, last=last)
        if whole:
            self._is_told, self.due = False, math.inf
        if not self._lines.pieces:
            self.due = -math.inf if self._is_told else math.inf  # it is gone without an end, which is to be told
        elif self.due == math.inf and (data or whole):
            self.due = max(time.monotonic() + SETTLE_SECONDS, self._told + TELL_SECONDS)
        return whole

    def unfinished(self) -> str:
        """How the unfinished line looks, which is not due then until more of it comes."""
        self.due, self._told, self._is_told = math.inf, time.monotonic(), bool(self._lines.pieces)
        return self._lines.unfinished
