"""One network becomes N small ones.

- `replicas`: N narrower networks of the same make, freshly initialised; together they have the network's hidden units.
- `neurons`: N disjoint parts of the network's own hidden units, with the weights they have; they may be dealt anew
  while training goes on. This is independent subnet training: Yuan et al., "Distributed learning of deep neural
  networks using independent subnet training", VLDB 2022.

What a network can be cut along is found in `finding`; a task may define its own `subnet(i)` instead. How subnets
train, and what becomes of them, is not known here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ..data.values import first_line
from ..errors import InputError
from ..preparing.building import build_model, copied, packed, unpacked
from ..preparing.examination import undisturbed
from ..preparing.modes import put
from ..preparing.seeds import derive, seed_all
from ..task import Task
from .finding import find_units
from .narrowing import initialise
from .oracle import find_mixed
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
    mixed
        Where units mean something else in a part than in the network (see `oracle`); "" where nowhere.
    """

    task: Task
    model: nn.Module
    subnets: int
    seed: int
    is_fresh: bool
    is_scaled: bool = False
    units: Units | None = None
    parts: tuple[Part, ...] = ()
    mixed: str = ""
    _own: dict[int, bytes] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What `subnet(i)` made, by its number: it is asked once, so that all that are made of it are the same."""

    @property
    def share(self) -> float:
        """What one subnet is of all: where it counts for N, its gradient is one of N that are averaged."""
        return 1 / self.subnets if self.is_scaled else 1.0

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
        if self.units is None and i in self._own:
            return put(unpacked(self._own[i]), training=True)
        seed_all(derive(self.seed, i))
        if self.units is None:
            assert self.task.subnet is not None
            built = self.task.subnet(i)
            if not isinstance(built, nn.Module):
                raise InputError(f"subnet({i}) returned a {type(built).__name__}: it must return an nn.Module")
            self._own[i] = packed(f"subnet({i})", built)  # it may return one and the same each time
            return put(unpacked(self._own[i]), training=True)
        subnet = self.units.narrow(self.parts[i])
        if self.is_scaled:
            scale(subnet, self.units.factors(self.parts[i]))
        return put(initialise(subnet) if self.is_fresh else subnet, training=True)


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
    mixed = find_mixed(units, division.parts, sample)
    if mixed and split == "neurons":
        raise InputError(f"{of_mixed(mixed)}: {OFFER}, or split replicas")
    return replace(division, mixed=mixed)


def of_mixed(mixed: str) -> str:
    """For messages: what of a cut is not exact."""
    return f"a part of the model does not compute what the model does with its other units dead, by {mixed}"


def _see_it_run(division: Division, sample: Tensor) -> None:
    """A network may have its own widths written into it, which no copy can follow."""
    with undisturbed(), torch.no_grad():
        shape = copied("the model", division.model)(sample.clone()).shape
        for i in {0, division.subnets - 1}:  # the widest and the narrowest
            try:
                outputs = division.make([i])[0](sample.clone())
            except Exception as error:  # it is the user's own code
                why = first_line(error)
                raise InputError(f"a narrower copy of the model does not run ({why}): {OFFER}") from error
            if outputs.shape != shape:
                raise InputError(
                    f"a narrower copy of the model gives {tuple(outputs.shape)} in place of {tuple(shape)}: {OFFER}"
                )
