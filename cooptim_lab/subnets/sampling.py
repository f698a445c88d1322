"""Which rows each subnet sees, and in which order: all of them, a bootstrap sample, or a part of its own.

Every rank works it out from the seed and the subnets' numbers. What is done with the rows is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..errors import InputError
from ..preparing.seeds import derive
from ..training.cutting import shard
from ..training.loop import batches
from ..training.spec import Subnets

ORDER, SAMPLE = 1, 2
"""What a random generator of a subnet is for."""


def check_rows(every: int, spec: Subnets) -> None:
    """Refuse more subnets than rows where each is to have some of its own.

    Raises
    ------
    InputError
    """
    if spec.data == "shard" and spec.subnets > every:
        raise InputError(f"subnets = {spec.subnets}: data = shard needs a row for each, and there are {every}")


def rows_each(every: int, spec: Subnets) -> int:
    """How many rows a subnet sees in an epoch, of `every` that there are."""
    return -(-every // spec.subnets) if spec.data == "shard" else every


def batches_each(every: int, spec: Subnets, which: Iterable[int], epoch: int) -> Sequence[Tensor]:
    """Row numbers of every step: (batch,) where all subnets see the same, else of those in `which` (subnets, batch)."""
    if spec.data == "all":
        return batches(every, spec.batch, spec.seed, epoch)
    orders = torch.stack([_own_rows(every, spec, i, epoch) for i in which])
    return orders.split(spec.batch, dim=1)


def _own_rows(every: int, spec: Subnets, i: int, epoch: int) -> Tensor:
    """Rows of subnet `i` in the order of this epoch; a shard that is one row short sees one of its rows twice."""
    order = torch.Generator().manual_seed(derive(spec.seed, epoch, i, ORDER))
    if spec.data == "bootstrap":
        sample = torch.Generator().manual_seed(derive(spec.seed, i, SAMPLE))
        own = torch.randint(every, (every,), generator=sample)
    else:
        part = shard(every, spec.subnets, i)
        own = torch.arange(part.start, part.stop)
    own = own[torch.randperm(len(own), generator=order)]
    return torch.cat([own, own[: rows_each(every, spec) - len(own)]])
