"""How the gradients of M shards become one step. One small class per way, over an mpi4py communicator.

All of them minimise Σ_r (b_r / B) L_r(w), L_r being the mean loss over the b_r rows that rank r brings to a step and
B = Σ b_r. With shards of equal size that is min_w 1/M Σ L(θ_i, y_i); with unequal ones the plain 1/M would be wrong.

A step's loss and the wish to stop travel in the same buffer as the gradient, so the ranks always agree on both and no
rank can leave another waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from .waiting import complete


class Aggregator:
    """One flat buffer [gradient of every parameter..., weighted loss, ranks that wish to stop], as the ranks' sum.

    Parameters
    ----------
    comm
        mpi4py communicator; every rank of it takes every step.
    model
        The same on every rank. Its gradients become views of the flat buffer: nothing is copied to send it.
    optimizer
        Over the parameters of `model`.

    Raises
    ------
    InputError
        When the parameters are not all float32 or all float64: MPI adds no others.
    """

    def __init__(self, comm: Any, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.comm, self.optimizer = comm, optimizer
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        types = {p.dtype for p in self.parameters}
        if len(types) > 1 or not types <= {torch.float32, torch.float64}:
            names = ", ".join(sorted(str(t).removeprefix("torch.") for t in types))
            raise InputError(
                f"the model's parameters are {names}: shards are aggregated in float32 or float64, all the same"
            )
        self.count = sum(p.numel() for p in self.parameters)
        self.flat = torch.zeros(self.count + 2, dtype=self.parameters[0].dtype)
        for p, view in zip(self.parameters, self.views(self.flat), strict=True):
            p.grad = view

    def views(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat buffer in the parameters' shapes, in their order."""
        parts = flat[: self.count].split([p.numel() for p in self.parameters])
        return [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]

    def step(self, loss: Callable[[], Tensor] | None, weight: float, stop: bool) -> tuple[Tensor, bool]:
        """One step of all ranks.

        Parameters
        ----------
        loss
            Computes this rank's mean loss, shape (), on its part of the batch; None where the part is empty.
        weight
            b_r / B, this rank's share of the batch's rows.
        stop
            Whether this rank wishes to stop after this step.

        Returns
        -------
        (Tensor, bool)
            The loss over the whole batch, shape (), and whether any rank wishes to stop: the same on every rank.
        """
        self.flat.zero_()
        if loss is not None:
            value = loss()
            value.backward()
            self.flat[: self.count] *= weight
            self.flat[-2] = value.detach() * weight
        self.flat[-1] = float(stop)
        self.exchange()
        return self.flat[-2].clone(), bool(self.flat[-1] > 0)

    def exchange(self) -> None:
        """Turn every rank's flat buffer into the sum of all, and the sum into a step of the model on every rank."""
        raise NotImplementedError


class AllReduce(Aggregator):
    """Every rank gets the sum (a ring or a tree: MPI's choice) and takes the same step."""

    def exchange(self) -> None:
        from mpi4py import MPI

        flat = self.flat.numpy()
        complete(self.comm.Iallreduce(MPI.IN_PLACE, flat), flat)
        self.optimizer.step()


class Server(Aggregator):
    """Rank 0 is the central server: it gathers every rank's gradient, takes the step alone, sends the weights back.

    The optimizer's state lives on the server only. Rank 0 trains its own shard too.
    """

    def __init__(self, comm: Any, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(comm, model, optimizer)
        self.is_server = comm.Get_rank() == 0
        self.gathered = torch.empty(comm.Get_size(), len(self.flat), dtype=self.flat.dtype) if self.is_server else None
        self.weights = torch.empty_like(self.flat)  # [weights..., loss, stop]: what the server sends back
        for p, view in zip(self.parameters, self.views(self.weights), strict=True):
            view.copy_(p.detach())
            p.data = view

    def exchange(self) -> None:
        receive = None if self.gathered is None else self.gathered.numpy()
        flat, weights = self.flat.numpy(), self.weights.numpy()
        complete(self.comm.Igather(flat, receive, root=0), flat, receive)
        if self.gathered is not None:
            torch.sum(self.gathered, dim=0, out=self.flat)
            self.optimizer.step()
            self.weights[-2:] = self.flat[-2:]
        complete(self.comm.Ibcast(weights, root=0), weights)
        self.flat[-2:] = self.weights[-2:]


AGGREGATORS: dict[str, type[Aggregator]] = {"server": Server, "allreduce": AllReduce}
