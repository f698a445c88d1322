"""What all ways to aggregate have in common: a step of all ranks, and what they agree on with it.

All of them minimise Σ_r (b_r / B) L_r(w), L_r being the mean loss over the b_r rows that rank r brings to a step and
B = Σ b_r. With shards of equal size that is min_w 1/M Σ L(θ_i, y_i); with unequal ones the plain 1/M would be wrong.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from torch import Tensor

from ...comm.timeline import ALL, Timeline
from ...comm.waiting import complete
from ...errors import InputError
from ..compression import Compression
from .replica import Replica

Loss = Callable[[], Tensor]


class Outcome(NamedTuple):
    """What is known after a step: the same on every rank, but for `async`."""

    losses: Sequence[float]
    """Over the whole batch, of the steps that have become known with this one."""
    stop: bool = False
    """Whether all ranks end here."""
    shares: bool = False
    """Whether all ranks exchange their times now."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What some of the ways can be told (see `spec.Sharded`)."""

    sync_every: int = 10
    staleness: int = 2
    outer_lr: float = 0.7
    outer_momentum: float = 0.9
    compression: Compression | None = None


class Aggregator:
    """Carries the steps of one rank, together with the others'.

    Parameters
    ----------
    comm
        mpi4py communicator; every rank of it takes every step.
    replica
        This rank's copy of the model; all begin with the same weights.
    settings, timeline
        As they say.
    """

    is_replicated: ClassVar[bool] = True
    """Whether model and optimizer are the same on every rank after every step."""
    shares_weights: ClassVar[bool] = False
    """Whether, where they are not, the weights are all the same."""
    tells_alone: ClassVar[bool] = False
    """Whether each rank knows by itself what it waited for; else ranks compare their times."""

    def __init__(self, comm: Any, replica: Replica, settings: Settings, timeline: Timeline) -> None:
        self.comm, self.replica, self.settings, self.timeline = comm, replica, settings, timeline
        self.rank, self.size = comm.Get_rank(), comm.Get_size()

    def step(self, loss: Loss | None, weight: float, stop: bool) -> Outcome:
        """One step of all ranks.

        Parameters
        ----------
        loss
            Computes this rank's mean loss, shape (), on its part of the batch; None where the part is empty.
        weight
            b_r / B, this rank's share of the batch's rows.
        stop
            Whether this rank wishes to stop after this step.

        Raises
        ------
        InputError
            When a loss is not finite: on which rank, or that it is so on all.
        """
        raise NotImplementedError

    @contextmanager
    def whole(self) -> Iterator[None]:
        """While it lasts, every rank's model is what all have trained together. Collective."""
        yield

    def settle(self) -> Sequence[float]:
        """Bring all ranks to the same weights for good: the end of training. Collective.

        Returns the losses that have become known with it.
        """
        return ()

    def can_save(self) -> bool:
        """Whether a checkpoint may be made after the step that has just ended: the same on every rank. Collective."""
        return True

    @property
    def staleness(self) -> tuple[float, int] | None:
        """Mean and most of how many steps a gradient's weights were old, on rank 0; None where that is always 0."""
        return None

    def close(self) -> None:
        """Leave nothing on its way; after `settle`."""

    def state(self) -> dict[str, Any]:
        """What this rank remembers between steps beside model and optimizer, for a checkpoint: tensors and numbers."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` said."""

    def sum_up(self, array: np.ndarray) -> None:
        """The sum over all ranks, on all of them, in place."""
        if self.size == 1:
            return
        from mpi4py import MPI

        began = time.perf_counter()
        complete(self.comm.Iallreduce(MPI.IN_PLACE, array), array)
        self.timeline.called(began, ALL, array.nbytes)

    def _sign(self, loss: float, weight: float, stop: bool) -> None:
        """Write what this rank has to say behind its gradient."""
        is_bad = not math.isfinite(loss)
        # In the order of replica.CONTROL, at once: a step of a small network takes half a millisecond.
        self.replica.control[:] = (
            0.0 if is_bad else loss * weight,
            stop,
            is_bad,
            self.rank * is_bad,
            self.rank == 0 and self.timeline.is_due,
        )

    def _read(self, control: np.ndarray) -> tuple[float, bool, bool]:
        """The loss, whether to stop and whether to share times, of the sum over all ranks."""
        loss, stop, bad, who, share = control.tolist()
        if bad:
            self._complain(int(bad), int(who))
        return loss, stop > 0, share > 0

    def _complain(self, bad: int, who: int) -> None:
        advice = "lower the learning rate, scale the inputs, or look for NaN in the data"
        if bad == self.size:
            raise InputError(f"the training loss is no longer finite: {advice}")
        hosts = self.comm.allgather(socket.gethostname())
        if bad == 1:
            raise InputError(
                f"the loss is not finite on rank {who} ({hosts[who]}) alone: look for NaN or outliers in its shard, or "
                "lower the learning rate"
            )
        raise InputError(f"the loss is not finite on {bad} of {self.size} ranks: {advice}")
