"""Small Python objects between ranks, by calls that an interrupt can end: mpi4py's own wait in C, maybe for ever."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from ..errors import InputError
from .waiting import complete


def allgather(comm: Any, value: Any) -> list[Any]:
    """The objects of all ranks, in their order, on every rank. Collective."""
    if comm.Get_size() == 1:
        return [value]
    mine = np.frombuffer(pickle.dumps(value), np.uint8)
    length, lengths = np.array([len(mine)]), np.empty(comm.Get_size(), np.int64)
    complete(comm.Iallgather(length, lengths), length, lengths)
    every = np.empty(int(lengths.sum()), np.uint8)
    complete(comm.Iallgatherv(mine, [every, lengths.tolist()]), mine, every)
    ends = np.cumsum(lengths).tolist()
    return [pickle.loads(every[end - size : end].data) for end, size in zip(ends, lengths.tolist(), strict=True)]


def gather(comm: Any, value: Any) -> list[Any] | None:
    """The objects of all ranks, in their order, on rank 0; None elsewhere. Collective."""
    if comm.Get_size() == 1:
        return [value]
    mine = np.frombuffer(pickle.dumps(value, protocol=5), np.uint8)
    length, is_root = np.array([len(mine)]), comm.Get_rank() == 0
    lengths = np.empty(comm.Get_size(), np.int64) if is_root else None
    complete(comm.Igather(length, lengths, root=0), length, lengths)
    if lengths is None:
        complete(comm.Igatherv(mine, None, root=0), mine)
        return None
    every = np.empty(int(lengths.sum()), np.uint8)
    complete(comm.Igatherv(mine, [every, lengths.tolist()], root=0), mine, every)
    ends = np.cumsum(lengths).tolist()
    return [pickle.loads(every[end - size : end].data) for end, size in zip(ends, lengths.tolist(), strict=True)]


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


def agree(comm: Any, error: InputError | None) -> None:
    """Raise, on every rank, what the first of them has to complain of. Collective.

    One rank's mistake then ends all in good order, and no rank waits for it.
    """
    said = next((each for each in allgather(comm, None if error is None else str(error)) if each is not None), None)
    if said is not None:
        raise error or InputError(said)
