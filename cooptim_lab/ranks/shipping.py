"""Large buffers on their way to machines that cannot map this one's memory: each memory file once for each machine.

One rank of the machine keeps it for the others, see `parcel.Store`.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path

from . import wire
from .parcel import Parcel, machine
from .rankset import RankSet

CHUNK = 1 << 20
"""Bytes of a memory file in one message."""


class Shipment:
    """What the ranks of one job need before they can begin; nothing where all of them are here.

    Parameters
    ----------
    calls
        The parcels of every rank.
    """

    def __init__(self, job: int, calls: Sequence[tuple[Parcel, ...]], ranks: RankSet) -> None:
        self._job, self._calls, self._ranks = job, calls, ranks
        self._keepers: dict[tuple[str, str], int] = {}
        self._stored: dict[tuple[int, str], str] = {}
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        for rank, parcels in enumerate(calls):
            where = ranks.hellos[rank].machine
            for parcel in parcels:
                if parcel.file is not None and where != machine():
                    self._keepers.setdefault((where, parcel.file), rank)

    @property
    def is_complete(self) -> bool:
        """Whether everything has arrived."""
        return len(self._stored) == len(self._keepers)

    def begin(self) -> None:
        """Send, by a thread: the pool's own has the ranks to listen to."""
        if self._keepers:
            self._thread = threading.Thread(target=self._send, name="cooptim-shipment", daemon=True)
            self._thread.start()

    def arrived(self, rank: int, file: str, path: str) -> None:
        """A keeper has all of a file."""
        self._stored[rank, file] = path

    def parcels(self, rank: int) -> tuple[Parcel, ...]:
        """A rank's parcels, to be opened where it is."""
        if not self._keepers:
            return self._calls[rank]
        where, parcels = self._ranks.hellos[rank].machine, []
        for parcel in self._calls[rank]:
            keeper = self._keepers.get((where, parcel.file or ""))
            if keeper is not None and parcel.file is not None:
                parcel = dataclasses.replace(parcel, file=self._stored[keeper, parcel.file])  # noqa: PLW2901
            parcels.append(parcel)
        return tuple(parcels)

    def end(self, patience: float) -> bool:
        """Whoever needed it has it, or nobody does any more. False when a rank does not take what it is sent."""
        self._over.set()
        if self._thread is None:
            return True
        self._thread.join(patience)
        if self._thread.is_alive():
            return False
        for rank in set(self._keepers.values()):
            self._ranks.send(rank, wire.Forget(self._job))
        return True

    def _send(self) -> None:
        for (_, name), rank in self._keepers.items():
            with Path(name).open("rb") as file:
                data = b"more"
                while data and not self._over.is_set():
                    data = file.read(CHUNK)
                    self._ranks.send(rank, wire.Store(self._job, name, data))
