"""What shards are measured against: DistributedDataParallel on gloo, and a flat buffer with one Allreduce, by hand.

Both are written as one who knows them would: a fused optimizer, gradients that are views of the buffer that is sent.
`python -m tests.benchmarks.peers FILE` is one rank of the first; FILE is where its ranks meet, RANK and WORLD_SIZE say
which it is. It reads lines `WIDTH STEPS`, and rank 0 answers each with the seconds of a step.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

FEATURES, CLASSES, BATCH, ROWS = 64, 10, 64, 16_000
"""`BATCH` rows of every rank in every step; `ROWS` in all."""
WARM_UP_STEPS = 20


def perceptron(width: int) -> nn.Module:
    layers = [nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)]
    return nn.Sequential(*layers)


def data() -> tuple[Tensor, Tensor]:
    """X (ROWS, FEATURES), y (ROWS,): noise."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(ROWS, FEATURES, generator=generator),
        torch.randint(CLASSES, (ROWS,), generator=generator),
    )


def optimizer(parameters: Any, **how: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, **how)


def adam(parameters: Any, **how: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.001, **how)


def parts(rows: int) -> Iterator[Tensor]:
    """Row numbers of batches, epoch after epoch."""
    while True:
        yield from (part for part in torch.randperm(rows).split(BATCH) if len(part) == BATCH)


def seconds_of_a_step(step: Callable[[Tensor], None], barrier: Callable[[], Any], rows: int, steps: int) -> float:
    """Mean over `steps`, after some that do not count."""
    batches = parts(rows)
    for part in itertools.islice(batches, WARM_UP_STEPS):
        step(part)
    barrier()
    began = time.perf_counter()
    for part in itertools.islice(batches, steps):
        step(part)
    return (time.perf_counter() - began) / steps


def by_hand(
    context: Any, width: int, steps: int, make: Callable[..., torch.optim.Optimizer] = optimizer, alone: bool = False
) -> float:
    """On a rank: gradients that are views of one flat buffer, one Allreduce, one fused optimizer.

    `alone` leaves out what is not a rank's own part of the computing: the Allreduce, and of the update what other ranks
    could do.
    """
    from mpi4py import MPI

    comm, size = context.comm, context.size
    torch.manual_seed(0)
    model = perceptron(width)
    x, y = (part[context.rank :: size].clone() for part in data())
    flat = torch.zeros(sum(p.numel() for p in model.parameters()))
    for p, grad in zip(model.parameters(), flat.split([p.numel() for p in model.parameters()]), strict=True):
        p.grad = grad.view_as(p)
    update = make(_share_of(flat, size) if alone else model.parameters(), fused=True)

    def step(rows: Tensor) -> None:
        flat.zero_()
        cross_entropy(model(x[rows]), y[rows]).backward()
        if not alone:
            comm.Allreduce(MPI.IN_PLACE, flat)
            flat.div_(size)
        update.step()

    return seconds_of_a_step(step, comm.Barrier, len(x), steps)


def _share_of(flat: Tensor, size: int) -> list[Tensor]:
    """As many weights as one of `size` ranks would update, with that part of a gradient."""
    part = torch.zeros(len(flat) // size, requires_grad=True)
    part.grad = flat[: len(part)]
    return [part]


def ddp(width: int, steps: int) -> float:
    """On a rank of torch.distributed: DDP, its buckets viewed as gradients."""
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(perceptron(width), static_graph=True, gradient_as_bucket_view=True)
    x, y = (part[rank::size].clone() for part in data())
    update = optimizer(model.parameters(), fused=True)

    def step(rows: Tensor) -> None:
        update.zero_grad(set_to_none=True)
        cross_entropy(model(x[rows]), y[rows]).backward()
        update.step()

    return seconds_of_a_step(step, torch.distributed.barrier, len(x), steps)


def main() -> None:
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{sys.argv[1]}",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    for line in sys.stdin:
        seconds = ddp(*map(int, line.split()))
        if torch.distributed.get_rank() == 0:
            print(seconds, flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
