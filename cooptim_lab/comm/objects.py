"""Small Python objects between ranks, by calls that an interrupt can end: mpi4py's own wait in C, maybe for ever."""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ..errors import InputError
from .waiting import complete

T = TypeVar("T")


def allgather(comm: Any, value: Any) -> list[Any]:
    """The objects of all ranks, in their order, on every rank. Collective."""
    if comm.Get_size() == 1:
        return [value]
    mine, head = _pack(value)
    heads = np.empty((comm.Get_size(), 2), np.int64)
    complete(comm.Iallgather(head, heads), head, heads)
    every = np.empty(int(heads[:, 0].sum()), np.uint8)
    complete(comm.Iallgatherv(mine, [every, heads[:, 0].tolist()]), mine, every)
    return _open(every, heads)


def gather(comm: Any, value: Any) -> list[Any] | None:
    """The objects of all ranks, in their order, on rank 0; None elsewhere. Collective."""
    if comm.Get_size() == 1:
        return [value]
    mine, head = _pack(value)
    heads = np.empty((comm.Get_size(), 2), np.int64) if comm.Get_rank() == 0 else None
    complete(comm.Igather(head, heads, root=0), head, heads)
    if heads is None:
        complete(comm.Igatherv(mine, None, root=0), mine)
        return None
    every = np.empty(int(heads[:, 0].sum()), np.uint8)
    complete(comm.Igatherv(mine, [every, heads[:, 0].tolist()], root=0), mine, every)
    return _open(every, heads)


def _pack(value: Any) -> tuple[np.ndarray, np.ndarray]:
    """Its bytes, and their number and checksum: MPICH takes a copy from a process that was killed for a success."""
    data = pickle.dumps(value, protocol=5)
    return np.frombuffer(data, np.uint8), np.array([len(data), zlib.crc32(data)])


def _open(every: np.ndarray, heads: np.ndarray) -> list[Any]:
    values = []
    for rank, (piece, (_, checksum)) in enumerate(zip(np.split(every, heads[:-1, 0].cumsum()), heads, strict=True)):
        if zlib.crc32(piece.data) != checksum:
            raise RuntimeError(f"what rank {rank} sent has not arrived: the rank is gone")
        values.append(pickle.loads(piece.data))
    return values


def bcast(comm: Any, value: Any) -> Any:
    """Rank 0's object, on every rank. Collective."""
    if comm.Get_size() == 1:
        return value
    is_root = comm.Get_rank() == 0
    data = np.frombuffer(pickle.dumps(value, protocol=5), np.uint8).copy() if is_root else None
    length = np.array([0 if data is None else len(data)])
    complete(comm.Ibcast(length, root=0), length)
    if data is None:
        data = np.empty(int(length[0]), np.uint8)
    complete(comm.Ibcast(data, root=0), data)
    return value if is_root else pickle.loads(data.data)


def barrier(comm: Any) -> None:
    """Wait until all ranks have come here."""
    if comm.Get_size() > 1:
        complete(comm.Ibarrier())


def agreed(comm: Any, work: Callable[[], T]) -> T:
    """What `work` gives on this rank, or, on every rank, the first one's complaint. Collective.

    Raises
    ------
    InputError
    """
    try:
        value = work()
    except InputError as error:
        agree(comm, error)
        raise  # not reached: `agree` raises the first one's
    agree(comm, None)
    return value


def agree(comm: Any, error: InputError | None) -> None:
    """Raise, on every rank, what the first of them has to complain of. Collective.

    One rank's mistake then ends all in good order, and no rank waits for it.
    """
    said = next((each for each in allgather(comm, None if error is None else str(error)) if each is not None), None)
    if said is not None:
        raise error or InputError(said)
