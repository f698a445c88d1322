"""Some subnets in training on one rank: their engine, their optimizers, a way to take them out and put them back."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence

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
from .states import State

TRIALS, TRIAL_WARM_UP = 5, 2
"""Steps by which two engines are compared, and before."""
TRIAL_MEMBERS = 8
"""So many subnets are enough to know what one after the other costs."""


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

    def memory(self) -> list[dict[str, dict[str, Tensor]]]:
        """What the optimizers remember, for each subnet: by the name of the quantity, by the name of the parameter.

        A quantity that is one number for all (how many steps were made) is under the parameter name "".
        """
        found: list[dict[str, dict[str, Tensor]]] = [{} for _ in range(sum(len(s.members) for s in self.stacks))]
        for each, optimizer in zip(self.stacks, self._optimizers, strict=True):
            for key, values in _quantities(optimizer).items():
                if values[0].numel() == 1 and key == "step":
                    for member in each.members:
                        found[member][key] = {"": values[0].clone().cpu()}
                    continue
                with _Holding(each, optimizer, values):
                    for member, state in zip(each.members, each.states(), strict=True):
                        found[member][key] = {name: state[name].cpu().clone() for name in self._trained[member]}
        return found

    def remember(self, memory: Sequence[Mapping[str, Mapping[str, Tensor]]], subnets: Sequence[nn.Module]) -> None:
        """Give the optimizers what `memory` said, cut for these subnets, which have the shapes of those in training."""
        for each, optimizer in zip(self.stacks, self._optimizers, strict=True):
            own = [memory[member] for member in each.members]
            for key in own[0]:
                if "" in own[0][key]:
                    values = [own[0][key][""].clone() for _ in _tensors(optimizer)]
                else:
                    holders = [subnets[member] for member in each.members]
                    for holder, of in zip(holders, own, strict=True):
                        with torch.no_grad():
                            for name, parameter in holder.named_parameters():
                                if name in of[key]:
                                    parameter.copy_(of[key][name])
                    flat = [p.detach() for p in type(each)(holders, each.members).parameters()]
                    values = _like(optimizer, flat)
                for tensor, value in zip(_tensors(optimizer), values, strict=True):
                    # The count of steps stays on the CPU where the optimizer keeps it there.
                    is_count = key == "step" and not optimizer.param_groups[0].get("capturable")
                    optimizer.state[tensor][key] = value if is_count else value.to(tensor.device)


def choose_engine(
    prepared: Prepared, subnets: Sequence[nn.Module], rows: Tensor, device: torch.device = CPU
) -> tuple[str, str]:
    """The faster engine for these subnets on this machine, by a short trial, and what says so; nothing where it is one.

    The trial trains copies; it draws no random number that anybody else would.
    """
    if len(subnets) == 1:
        return "separate", ""
    some = list(subnets[:TRIAL_MEMBERS])
    with torch.random.fork_rng():
        together = Trainer(prepared, subnets, "stacked", is_own=rows.dim() == 2, device=device)
        if all(engine == "separate" for engine in together.engines):
            return "separate", "these sub-networks, or their optimizer, cannot be stacked"
        alone = Trainer(prepared, some, "separate", device=device)
        stacked = _step_seconds(together, rows)
        separate = _step_seconds(alone, rows[: len(some)] if rows.dim() == 2 else rows) * len(subnets) / len(some)
    name = "+".join(sorted(set(together.engines)))
    said = f"a step takes {stacked * 1e3:.2g} ms stacked ({name}), {separate * 1e3:.2g} ms one after the other"
    return ("stacked" if stacked <= separate else "separate"), said


def _step_seconds(trainer: Trainer, rows: Tensor) -> float:
    seconds = []
    for _ in range(TRIAL_WARM_UP + TRIALS):
        began = time.perf_counter()
        trainer.step(rows).sum().item()  # a GPU's work is done only when its value is there
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[TRIAL_WARM_UP:])


def _tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [tensor for group in optimizer.param_groups for tensor in group["params"]]


def _quantities(optimizer: torch.optim.Optimizer) -> dict[str, list[Tensor]]:
    """By name, for each tensor that the optimizer updates; empty before its first step."""
    tensors = _tensors(optimizer)
    first = optimizer.state.get(tensors[0], {})
    return {
        key: [optimizer.state[tensor][key] for tensor in tensors]
        for key, value in first.items()
        if isinstance(value, Tensor)
    }


def _like(optimizer: torch.optim.Optimizer, parameters: Sequence[Tensor]) -> list[Tensor]:
    """A stack's parameters gathered as its optimizer has them: one by one, or flat by dtype."""
    tensors = _tensors(optimizer)
    if [t.shape for t in tensors] == [p.shape for p in parameters]:
        return [p.clone() for p in parameters]
    return [torch.cat([p.flatten() for p in parameters if p.dtype == tensor.dtype]) for tensor in tensors]


class _Holding:
    """While it lasts, a stack's parameters hold other values: what an optimizer remembers of each."""

    def __init__(self, stack: Stack, optimizer: torch.optim.Optimizer, values: Sequence[Tensor]) -> None:
        self._tensors, self._values = _tensors(optimizer), values
        self._kept = [tensor.detach().clone() for tensor in self._tensors]

    def __enter__(self) -> None:
        self._put(self._values)

    def __exit__(self, *exception: object) -> None:
        self._put(self._kept)

    def _put(self, values: Sequence[Tensor]) -> None:
        with torch.no_grad():
            for tensor, value in zip(self._tensors, values, strict=True):
                tensor.copy_(value)
