"""The merged network becomes one: its norms see the data, and it is trained as one for a while.

Parts knew nothing of each other. What their BatchNorms have seen is what their own units give, and what one learned is
not what the others left to learn. Both are mended on rank 0, while the clock runs, with the threads of all ranks, which
have nothing to do. How parts were made and merged is not known here.
"""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..comm.context import Context
from ..levers.hardware import with_threads
from ..preparing.building import trained
from ..preparing.modes import leave_training, put
from ..preparing.prepare import Prepared
from ..preparing.scoring import Score
from ..training.loop import Clock, batches, fit, plain_step
from ..training.reporting import make_recorder, record_score
from ..training.spec import Subnets
from ..training.stepping import make_scheduler
from .engines.device import CPU
from .outlook import Outlook
from .states import fill, state_of

MERGED = "merged"
"""The curve of its training loss."""


@dataclass
class Joint:
    """A merged network, on rank 0.

    Attributes
    ----------
    stages
        What it reached on the held-out rows, and after what; scoring is not on the clock.
    steps
        That were made here.
    lost
        What was said of a loss that was no longer finite; the network is then as it was merged.
    """

    context: Context
    prepared: Prepared
    spec: Subnets
    network: nn.Module
    clock: Clock
    outlook: Outlook | None = None
    device: torch.device = CPU
    stages: list[tuple[str, Score]] = field(default_factory=list)
    steps: int = 0
    lost: str = ""

    def make(self, finished: bool, *, is_exact: bool) -> bool:
        """All that is to be done, if the parts have `finished`; whether the whole came to its end.

        `is_exact` says that merging alone gives what the parts compute together.
        """
        if not is_exact:
            self.look("merged")
            if self.estimate_norms():
                self.look("its norms re-estimated")
        if not (finished and self.spec.joint_epochs):
            return finished
        return self.polish()

    def estimate_norms(self) -> bool:
        """Let BatchNorms that learn their statistics learn them again, from all rows, each counted once; if any.

        The mean over batches of about the same size, in an order of their own: rows that lie sorted by class would make
        every batch of one class, and its variance too small.
        """
        put(self.network, training=True)
        norms = [
            m for m in self.network.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats
        ]
        if not norms:
            return False
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a mean over all that comes
        x = self.prepared.x
        (order,) = batches(len(x), len(x), self.spec.seed, self.spec.epochs)
        with torch.no_grad():
            for rows in order.tensor_split(-(-len(x) // self.spec.batch)):
                self.network(x[rows])
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        return True

    def polish(self) -> bool:
        """Plain training of the last epochs, with an optimizer of its own; whether it came to its end."""
        spec, task = self.spec, self.prepared.task
        each = math.ceil(len(self.prepared.x) / spec.batch)
        first = spec.epochs - spec.joint_epochs
        before = {name: value.clone() for name, value in state_of(self.network).items()}
        put(self.network.to(self.device), training=True)
        named = trained(self.network)
        optimizer = self.prepared.optimizer([p for _, p in named], [name for name, _ in named])
        scheduler = make_scheduler(task, optimizer, spec.epochs * each)
        _go_on(scheduler, first * each)
        loss, x, y = self.prepared.loss_function, self.prepared.x.to(self.device), self.prepared.y.to(self.device)
        step = plain_step(self.network, optimizer, loss, x, y, clipped=task.clip, scheduler=scheduler)

        def leave_out(place: int, said: str) -> None:
            self.lost = said

        recorder = make_recorder(self.context, [MERGED], len(x), spec, may_diverge=leave_out, done=first * each)

        def end_epoch(epoch: int) -> bool:
            record_score(recorder, epoch, self._score(optimizer))
            return self.context.stopping() or bool(self.lost)

        with with_threads(torch.get_num_threads() if self.outlook is None else self.outlook.threads):
            finished = fit(
                step,
                lambda epoch: batches(len(x), spec.batch, spec.seed, epoch),
                spec.epochs,
                recorder=recorder,
                clock=self.clock,
                stopping=self.context.stopping,
                end_epoch=end_epoch,
                start=(first, 0),
            )
        leave_training(optimizer)
        self.network.to(CPU)
        self.steps = recorder.steps - first * each
        if self.lost:
            fill(self.network, before)
        return finished or bool(self.lost)

    def look(self, after: str) -> None:
        """Score what is there by now, the clock standing still."""
        with self.clock.paused():
            self.stages.append((after, self._score()))

    def _score(self, optimizer: torch.optim.Optimizer | None = None) -> Score:
        network = self.network if self.device == CPU else copy.deepcopy(self.network).to(CPU)
        return self.prepared.score(self.prepared.outputs(network, optimizer))


def _go_on(scheduler: object, steps: int) -> None:
    """Where the rate is after so many steps, which the parts have made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimizer made them
        for _ in range(steps if scheduler is not None else 0):
            scheduler.step()  # type: ignore[attr-defined]
