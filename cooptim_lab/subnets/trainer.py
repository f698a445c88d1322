"""Some subnets in training on one rank: their engine, their optimizers, a way to take them out and put them back.

How they were made, and that there are other ranks, is not known here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ..training.loop import Step
from ..training.optimizers import is_elementwise
from ..training.prepare import Prepared
from .engines.captured import CapturedStep, can_capture
from .engines.device import CPU
from .engines.stacked import stack
from .engines.stacks import Stack
from .engines.stepping import stacked_step
from .memory import Memory, put, take
from .states import State


class Trainer:
    """Subnets that train together.

    Parameters
    ----------
    engine
        `stacked`, or `separate`: one after the other.
    is_own
        Whether each is to get batches of its own.
    device
        Where they train; what comes out of this class is on the CPU again.
    """

    def __init__(
        self,
        prepared: Prepared,
        subnets: Sequence[nn.Module],
        engine: str,
        *,
        is_own: bool = False,
        device: torch.device = CPU,
    ) -> None:
        x, y = prepared.x.to(device), prepared.y.to(device)
        if device != CPU:
            subnets = [copy.deepcopy(subnet).to(device) for subnet in subnets]
        self._trained = [[name for name, p in subnet.named_parameters() if p.requires_grad] for subnet in subnets]
        is_stackable = is_elementwise(prepared.optimizer([torch.zeros(1, 1, requires_grad=True)]))
        is_separate = engine == "separate" or not is_stackable
        self.stacks: list[Stack] = stack(subnets, separate=is_separate, sample=x[:2], is_own=is_own)
        self._optimizers: list[torch.optim.Optimizer] = []

        def make(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
            self._optimizers.append(prepared.optimizer(parameters))
            return self._optimizers[-1]

        self.step: Step[Tensor | Sequence[Tensor]] = stacked_step(
            self.stacks, make, prepared.loss_function, x, y, is_elementwise=is_stackable
        )
        if device != CPU and is_stackable and all(map(can_capture, self._optimizers)):
            self.step = CapturedStep(self.step, device)

    @property
    def engines(self) -> list[str]:
        """One for each stack."""
        return [each.engine for each in self.stacks]

    def states(self) -> list[State]:
        """What each subnet has learned by now: on a CPU views, which change as training goes on."""
        pairs = [pair for each in self.stacks for pair in zip(each.members, each.states(), strict=True)]
        ordered = [state for _, state in sorted(pairs, key=lambda pair: pair[0])]
        return [{name: value.cpu() for name, value in state.items()} for state in ordered]

    def memory(self) -> list[Memory]:
        """What the optimizers remember, of each subnet."""
        found: list[Memory] = [{}] * len(self._trained)
        for each, optimizer in zip(self.stacks, self._optimizers, strict=True):
            trained = [self._trained[member] for member in each.members]
            for member, of in zip(each.members, take(each, optimizer, trained), strict=True):
                found[member] = of
        return found

    @torch.no_grad()
    def put(self, states: Sequence[State]) -> None:
        """Let the subnets have these values, in place; they have the shapes of those in training."""
        for each in self.stacks:
            for member, own in zip(each.members, each.states(), strict=True):
                for name, value in states[member].items():
                    own[name].copy_(value)

    def remember(self, memory: Sequence[Memory]) -> None:
        """Let the optimizers remember this of the subnets, in place."""
        for each, optimizer in zip(self.stacks, self._optimizers, strict=True):
            put(each, optimizer, [memory[i] for i in each.members])
