"""One network becomes N small ones.

- `replicas`: N narrower networks of the same make, freshly initialised; together they have the network's hidden units.
- `neurons`: N disjoint parts of the network's own hidden units, with the weights they have; they may be dealt anew
  while training goes on. This is independent subnet training: Yuan et al., "Distributed learning of deep neural
  networks using independent subnet training", VLDB 2022.

What a network can be cut along is found in `finding`; a task may define its own `subnet(i)` instead. How subnets
train, and what becomes of them, is not known here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..task import Task
from ..training.building import build_model, copied
from ..training.seeds import derive
from .finding import find_units, first_line
from .narrowing import initialise
from .scaled import scale
from .units import OFFER, Part, Units


@dataclass(frozen=True)
class Division:
    """How a network is divided among N subnets.

    Attributes
    ----------
    model
        The network; what its parts have learned is put back into it before they are dealt anew.
    is_scaled
        Whether the hidden units of each subnet count for those that it has not (see `scaled`).
    units, parts
        What it is cut along, and which units each subnet has; None and none where the task defines `subnet(i)`.
    """

    task: Task
    model: nn.Module
    subnets: int
    seed: int
    is_fresh: bool
    is_scaled: bool = False
    units: Units | None = None
    parts: tuple[Part, ...] = ()

    def make(self, which: Iterable[int] | None = None) -> list[nn.Module]:
        """The subnets `which` (default: all), ready to be trained.

        A fresh subnet depends on the seed and on its number alone, never on how many ranks share the work. Layers that
        can (`reset_parameters`) initialise themselves; a parameter of no such layer keeps the network's values.

        Raises
        ------
        InputError
            When `subnet(i)` does not return a module.
        """
        return [self._make(i) for i in (range(self.subnets) if which is None else which)]

    def deal_again(self, deal: int) -> Division:
        """The network's units among the subnets in another way: the deal of this number."""
        assert self.units is not None
        generator = None if self.is_fresh else torch.Generator().manual_seed(derive(self.seed, deal))
        return replace(self, parts=tuple(self.units.deal(self.subnets, generator)))

    def _make(self, i: int) -> nn.Module:
        torch.manual_seed(derive(self.seed, i))
        if self.units is None:
            assert self.task.subnet is not None
            built = self.task.subnet(i)
            if not isinstance(built, nn.Module):
                raise InputError(f"subnet({i}) returned a {type(built).__name__}: it must return an nn.Module")
            return copied(f"subnet({i})", built).train()  # it may return one and the same each time
        subnet = self.units.narrow(self.parts[i])
        if self.is_scaled:
            scale(subnet, self.units.factors(self.parts[i]))
        return (initialise(subnet) if self.is_fresh else subnet).train()


def divide(task: Task, sample: Tensor, subnets: int, *, split: str, seed: int, is_scaled: bool = False) -> Division:
    """Divide a task's network into N, as `split` says.

    Parameters
    ----------
    sample
        A batch (batch, ...) that the network takes.
    is_scaled
        Of its own units: that those of a part are to count for the others too.

    Raises
    ------
    InputError
        When the network cannot be cut so: what stands in the way is named.
    """
    model = build_model(task.model, seed)
    if task.subnet is not None:
        if split != "replicas":
            raise InputError(
                f"split = {split} cuts the model itself: leave subnet(i) out of the task, or split replicas"
            )
        return Division(task, model, subnets, seed, is_fresh=True)
    units = find_units(model, sample)
    division = Division(task, model, subnets, seed, split == "replicas", is_scaled, units).deal_again(0)
    _see_it_run(division, sample)
    return division


def _see_it_run(division: Division, sample: Tensor) -> None:
    """A network may have its own widths written into it, which no copy can follow."""
    with torch.random.fork_rng(), torch.no_grad():
        shape = copy.deepcopy(division.model)(sample).shape
        for i in {0, division.subnets - 1}:  # the widest and the narrowest
            try:
                outputs = division.make([i])[0](sample)
            except Exception as error:  # it is the user's own code
                why = first_line(error)
                raise InputError(f"a narrower copy of the model does not run ({why}): {OFFER}") from error
            if outputs.shape != shape:
                raise InputError(
                    f"a narrower copy of the model gives {tuple(outputs.shape)} in place of {tuple(shape)}: {OFFER}"
                )
