"""Arrays that map a file: where their bytes lie in it, and rows read from there without mapping anything.

A mapped page counts as memory of the process that touched it, and some systems map 2 MiB around one row; a read costs a
microsecond or two and leaves nothing behind. Imports no torch, so that the kernel may.
"""

from __future__ import annotations

import mmap
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError

SPAN = 1 << 18
"""Bytes that are read at a time where the rows that are wanted lie close together."""
CLOSE = 16
"""Rows in such a span from which on one read of all of it takes less time than one for each."""


def place_in_file(array: Any) -> int | None:
    """The offset in its file, in bytes, at which a memmap's first element lies; None when that cannot be relied on.

    So of a copy-on-write map (mode "c": what was written to it is in no file), of what is not one piece of the file in
    C order, and of what has no file, or no longer.
    """
    mapping = array._mmap
    if mapping is None or array.filename is None or array.mode not in ("r", "r+", "w+"):
        return None
    if array.size == 0 or array.dtype.hasobject or not array.flags.c_contiguous:
        return None
    # A slice has the offset of the array that it was taken from, so the place is counted from where the map begins. As
    # np.memmap does, that is at the last boundary before the offset that the system allows.
    within = array.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data
    if not 0 <= within <= len(mapping) - array.nbytes:
        return None
    start = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY + within
    try:
        is_there = Path(array.filename).stat().st_size >= start + array.nbytes
    except OSError:  # removed since it was mapped
        return None
    return start if is_there else None


class FileRows:
    """The rows of an array in a file.

    Parameters
    ----------
    array
        A memmap whose `place_in_file` is `start`.
    """

    def __init__(self, array: Any, start: int) -> None:
        self._path, self._start = str(array.filename), start
        self._shape, self._dtype = array.shape[1:], array.dtype
        self._bytes = array.itemsize * int(np.prod(self._shape))
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):  # the file may have been gone
            os.close(self._descriptor)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Rows (int64, ascending) as an array of their own, (len(rows), ...).

        Raises
        ------
        InputError
            When the file has become shorter.
        """
        out = np.empty((len(rows), *self._shape), self._dtype)
        raw = out.view(np.uint8).reshape(len(rows), self._bytes)
        numbers = rows.tolist()
        close = np.searchsorted(rows, rows + max(1, SPAN // max(1, self._bytes))).tolist()
        at = 0
        while at < len(numbers):
            end = close[at]
            if end - at >= CLOSE:
                first, last = numbers[at], numbers[end - 1]
                span = np.empty((last - first + 1, self._bytes), np.uint8)
                self._fill(span, first)
                raw[at:end] = span[rows[at:end] - first]
            else:
                end = at + 1
                self._fill(raw[at:end], numbers[at])
            at = end
        return out

    def _fill(self, into: np.ndarray, row: int) -> None:
        if os.preadv(self._descriptor, [into.data], self._start + row * self._bytes) != into.nbytes:
            raise InputError(f"{self._path} on {socket.gethostname()} ends before row {row}: it has become shorter")
