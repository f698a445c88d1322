"""Directories of one's own whose paths are short enough for a socket in them, wherever TMPDIR is.

Imports nothing heavy: the extension needs one the moment it is loaded.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

SOCKET_PATH_LIMIT = 100
"""Bytes that a Unix socket's path may have, a little under what Linux (108) and macOS (104) take."""
LONGEST_NAME = "nursery"
"""Of the sockets that are made in such a directory."""
SHORT = ("/tmp", "/var/tmp", "/dev/shm")
"""Where else, in this order, if TMPDIR is too long."""


def make_directory() -> Path:
    """A private directory, short enough a path for a socket in it.

    Raises
    ------
    OSError
        When there is no such place that can be written to.
    """
    failed: OSError | None = None
    for place in (None, *SHORT):
        try:
            directory = Path(tempfile.mkdtemp(prefix="cooptim-", dir=place))
        except OSError as error:
            failed = failed or error
            continue
        if len(os.fsencode(directory / LONGEST_NAME)) <= SOCKET_PATH_LIMIT:
            return directory
        directory.rmdir()
    raise failed or OSError(f"the path of the temporary directory is too long: {tempfile.gettempdir()}")
