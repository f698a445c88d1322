"""Some subnets in training on one rank: their engine, their optimizers, a way to take them out and put them back.

How they were made, and that there are other ranks, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..data.values import first_line
from ..preparing.building import copied
from ..preparing.hooks import hooked
from ..preparing.modes import has_modes
from ..preparing.optimizers import treats_numbers_alone
from ..preparing.prepare import Prepared
from ..training.loop import Step
from ..training.stepping import make_scheduler
from .engines.captured import CapturedStep, can_capture
from .engines.device import CPU
from .engines.stacked import reaches_all, refuse, stack
from .engines.stacks import SingleStack, Stack
from .engines.stepping import Pair, StackedStep
from .engines.trying import Trial
from .engines.updating import Rules, Updater
from .memory import Memory, put, take
from .states import State, fill


class Trainer:
    """Subnets that train together.

    Parameters
    ----------
    engine
        `stacked`, or `separate`: one after the other.
    trial
        What was found out about stacks of such subnets, and is found out.
    steps
        Of the whole training, for the scheduler; 0: of a trial, which has none.
    share
        By which their gradients are multiplied (see `stepping.StackedStep`).
    device
        Where they train; what comes out of this class is on the CPU again.
    tell
        Called with what a stack failed with, when it is taken apart.
    """

    def __init__(
        self,
        prepared: Prepared,
        subnets: Sequence[nn.Module],
        engine: str,
        trial: Trial,
        *,
        steps: int = 0,
        is_own: bool = False,
        share: float = 1.0,
        device: torch.device = CPU,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        x, y = prepared.x.to(device), prepared.y.to(device)
        if device != CPU:
            subnets = [copied("a sub-network", subnet).to(device) for subnet in subnets]
        self._subnets, self._trial, self._tell = subnets, trial, tell
        task = prepared.task
        is_scheduled = bool(steps) and task.scheduler is not None
        schedule = partial(make_scheduler, task, steps=steps) if is_scheduled else None
        self._rules = Rules(prepared.optimizer, schedule, task.clip)
        # A hook may put another tensor in the place of a gradient, or do what a captured step would not do again.
        self._is_flat = all(reaches_all(subnet, trial) and not hooked(subnet) for subnet in subnets)
        is_separate = engine == "separate" or not self._is_stackable()
        stacks = stack(subnets, separate=is_separate, trial=trial, is_own=is_own)
        # One network by itself is trained as the plain loop does it, bit for bit.
        is_flat = self._is_flat and (len(stacks) > 1 or stacks[0].engine != "separate")
        pairs = [(each, Updater(each, self._rules, is_flat=is_flat)) for each in stacks]
        loss = loss_on(prepared.loss_function, device)
        self._made = StackedStep(pairs, loss, x, y, take_apart=self._take_apart, share=share)
        self.step: Step[Tensor | Sequence[Tensor]] = self._made
        is_steady = self._is_flat and not is_scheduled
        if device != CPU and is_steady and all(can_capture(updater.optimizer) for _, updater in pairs):
            self.step = CapturedStep(self._made, device, lambda: self._made.is_steady)

    @property
    def stacks(self) -> list[Stack]:
        """Every stack, as it is now."""
        return [each for each, _ in self._made.pairs]

    @property
    def engines(self) -> list[str]:
        """One for each stack."""
        return [each.engine for each in self.stacks]

    def states(self) -> list[State]:
        """What each subnet has learned by now: on a CPU views, which change as training goes on."""
        pairs = [pair for each in self._made.pairs for pair in zip(each[0].members, _learned(*each), strict=True)]
        ordered = [state for _, state in sorted(pairs, key=lambda pair: pair[0])]
        return [{name: value.cpu() for name, value in state.items()} for state in ordered]

    def modules(self) -> dict[int, nn.Module]:
        """Of stacks that run a subnet's own forward, one as it is now, with all that it keeps; by its number."""
        found = {}
        states = self.states()
        for each in self.stacks:
            module = getattr(each, "module", None)
            if module is not None:
                found[each.members[0]] = copied("a sub-network", module).cpu()
                fill(found[each.members[0]], states[each.members[0]])
        return found

    def memory(self) -> list[Memory]:
        """What the optimizers remember, of each subnet.

        Raises
        ------
        InputError
            When it cannot be told of which subnet it is.
        """
        found: list[Memory] = [{}] * len(self._subnets)
        for each, updater in self._made.pairs:
            for member, of in zip(each.members, take(each, updater), strict=True):
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
        for each, updater in self._made.pairs:
            put(each, updater, [memory[i] for i in each.members])

    def _is_stackable(self) -> bool:
        """Whether what the task's optimizer does to a subnet can be done to many at once."""
        one = SingleStack([self._subnets[0]], [0]).parameters()
        return treats_numbers_alone(self._rules.make(list(one.values()), list(one)))

    def _take_apart(self, failed: Stack, updater: Updater, error: Exception) -> list[Pair]:
        """The members of a stack one by one, from the state that they have."""
        alike = self._subnets[failed.members[0]]  # what a stack runs: what it has counted goes on too
        refuse(alike, self._trial)
        if self._tell is not None:
            self._tell(first_line(error))
        pairs: list[Pair] = []
        for member, state, memory in zip(failed.members, failed.states(), take(failed, updater), strict=True):
            subnet = copied("a sub-network", alike)
            fill(subnet, state)
            single = SingleStack([subnet], [member])
            own = Updater(single, self._rules, is_flat=False, done=updater.done)
            put(single, own, [memory])
            pairs.append((single, own))
        return pairs


def loss_on(loss: Any, device: torch.device) -> Any:
    """A loss whose weights, where it has some, are on the device."""
    if device == CPU or not isinstance(loss, nn.Module):
        return loss
    return copied("loss", loss).to(device)


def _learned(each: Stack, updater: Updater) -> list[State]:
    """Of its subnets; where an optimizer holds other weights while it trains, copies of those that it has found."""
    optimizer: Any = updater.optimizer
    if not has_modes(optimizer):
        return each.states()
    optimizer.eval()
    found: list[State] = [{name: value.clone() for name, value in state.items()} for state in each.states()]
    optimizer.train()
    return found
