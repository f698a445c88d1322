"""Objects on their way to the ranks: small things as bytes, large arrays once, in memory that all local ranks map.

Pickle's protocol 5 leaves the buffers of arrays and tensors out of the stream; they are written to one anonymous memory
file (memfd), which every rank maps copy-on-write: 1 GB on 4 ranks costs 1 GB, and a program that writes to its array
changes only its own copy. The file has no name, so nothing can be left behind, and no /dev/shm to be too small. A
machine that cannot map it is sent it once: one of its ranks keeps it in such a file for the others (`Store`).

An array that maps a file (np.memmap) travels as the file's path: every rank maps the file where it is, read-only, and
reads no more of it than it uses. So every host must have the file at that path.
"""

from __future__ import annotations

import io
import math
import mmap
import os
import pickle
import socket
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.mapped import place_in_file
from ..errors import InputError
from ..preparing.hooks import HookPickler

if TYPE_CHECKING:
    import numpy as np

LARGE = 1 << 16
"""Bytes from which on a buffer travels apart."""
ALIGNMENT = 64  # of every buffer: a cache line, and more than any vector unit asks for


@dataclass(frozen=True)
class Parcel:
    """What travels: the pickle stream, and where its large buffers lie in the memory file."""

    data: bytes
    file: str | None = None
    places: tuple[tuple[int, int], ...] = ()
    """(start, length) of every buffer, in bytes."""


@dataclass
class Sender:
    """The sending side. Keeps the memory file open until `close`, when every rank has mapped it."""

    descriptors: list[int] = field(default_factory=list)

    def pack(self, value: Any) -> Parcel:
        """Make a parcel of any object: by value, notebook-defined classes and functions too.

        Raises
        ------
        InputError
            When it cannot be pickled, comes apart (`sharing`), or memory is short.
        """
        buffers: list[memoryview] = []

        def keep_inside(buffer: pickle.PickleBuffer) -> bool:
            raw = buffer.raw()
            if not hasattr(os, "memfd_create") or raw.nbytes < LARGE:
                return True
            buffers.append(raw)
            return False

        stream = io.BytesIO()
        try:
            _Pickler(stream, protocol=5, buffer_callback=keep_inside).dump(value)
        except InputError:
            raise
        except Exception as error:  # pickling runs the user's own code
            raise InputError(f"this cannot be sent to the ranks: {type(error).__name__}: {error}") from error
        if not buffers:
            return Parcel(stream.getvalue())
        try:
            return Parcel(stream.getvalue(), *self._write(buffers))
        except OSError as error:
            size = sum(buffer.nbytes for buffer in buffers)
            raise InputError(f"no room for {size / 2**20:.0f} MiB of data: {error.strerror}") from error

    def close(self) -> None:
        """The ranks have what they need: what they have mapped stays theirs."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    def _write(self, buffers: list[memoryview]) -> tuple[str, tuple[tuple[int, int], ...]]:
        descriptor = os.memfd_create("cooptim", os.MFD_CLOEXEC)
        self.descriptors.append(descriptor)  # closed with the others, also when there is no room
        places, end = [], 0
        for buffer in buffers:
            start = -(-end // ALIGNMENT) * ALIGNMENT
            done = 0
            while done < buffer.nbytes:
                done += os.pwrite(descriptor, buffer[done:], start + done)
            end = start + done
            places.append((start, done))
        return _path(descriptor), tuple(places)


class Store:
    """Memory files of another machine, kept here for the ranks of this one, by job."""

    def __init__(self) -> None:
        self._descriptors: dict[tuple[int, str], int] = {}

    def write(self, job: int, file: str, data: bytes) -> str:
        """Add to what is kept of `file`; returns the path under which it can be mapped."""
        key = job, file
        if key not in self._descriptors:
            self._descriptors[key] = os.memfd_create("cooptim", os.MFD_CLOEXEC)
        descriptor, done = self._descriptors[key], 0
        while done < len(data):
            done += os.write(descriptor, memoryview(data)[done:])
        return _path(descriptor)

    def forget(self, job: int) -> None:
        """Close what belongs to a job: what has been mapped stays."""
        for key in [key for key in self._descriptors if key[0] == job]:
            os.close(self._descriptors.pop(key))


def machine() -> str:
    """The same for two processes exactly when they can map each other's memory files: one kernel, one view of pids."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux: no memory files either
        return socket.gethostname()


def _path(descriptor: int) -> str:
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def unpack(parcel: Parcel) -> Any:
    """The object, on a rank; its large arrays lie in shared memory until they are written to."""
    if parcel.file is None:
        return pickle.loads(parcel.data)
    with Path(parcel.file).open("rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    return pickle.loads(parcel.data, buffers=[view[start : start + length] for start, length in parcel.places])


def dumps(value: Any) -> bytes:
    """An object as bytes that plain pickle opens; what maps a file, as the file's path.

    Raises
    ------
    InputError
        When it cannot be pickled.
    """
    stream = io.BytesIO()
    try:
        _Pickler(stream, protocol=5).dump(value)
    except InputError:
        raise
    except Exception as error:  # pickling runs the user's own code
        raise InputError(f"this cannot be kept: {type(error).__name__}: {error}") from error
    return stream.getvalue()


class _Pickler(HookPickler):
    """cloudpickle with hooks, but plain CPU tensors as the arrays that they are, which torch's own way copies into the
    stream, and arrays that map a file as the place where their bytes lie in it.
    """

    def reducer_override(self, obj: Any) -> Any:
        numpy = sys.modules.get("numpy")
        if numpy is not None and type(obj) is numpy.memmap:
            start = place_in_file(obj)
            if start is not None:
                if obj.mode != "r":
                    obj._mmap.flush()  # for the other hosts of a network file system
                return _map, (str(obj.filename), obj.dtype, obj.shape, start)
        torch = sys.modules.get("torch")
        if torch is not None and type(obj) is torch.Tensor and _is_plain(obj, torch) and obj not in self._shared:
            return _as_tensor, (obj.contiguous().numpy(),)
        return super().reducer_override(obj)


def _map(path: str, dtype: np.dtype, shape: tuple[int, ...], start: int) -> np.memmap:
    """The other end of it: a read-only map of the file that this host has at the same path.

    Raises
    ------
    InputError
        When the file cannot be read here, or ends before the data does.
    """
    import numpy as np

    needed = start + math.prod(shape) * dtype.itemsize
    wanted = "every host must have the file at that path"
    try:
        found = Path(path).stat().st_size
        if found < needed:
            raise InputError(f"{path} on {socket.gethostname()} has {found} bytes, the data needs {needed}: {wanted}")
        return np.memmap(path, dtype=dtype, mode="r", offset=start, shape=shape)
    except OSError as error:
        raise InputError(f"{path} cannot be read on {socket.gethostname()} ({error.strerror}): {wanted}") from error


def _is_plain(tensor: Any, torch: Any) -> bool:
    return (
        tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not tensor.requires_grad
        and tensor.dtype is not torch.bfloat16  # numpy has none
        and tensor.numel() * tensor.element_size() >= LARGE
    )


def _as_tensor(array: np.ndarray) -> Any:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "not writable", of one that was read-only where it came from
        return torch.from_numpy(array)
