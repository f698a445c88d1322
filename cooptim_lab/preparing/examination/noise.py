"""Numbers that a network draws, the same again: so that a part of a batch is given what its rows had in the whole.

Seen are torch's own draws, wherever in the network they are. Which passes are compared is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

DRAWN = frozenset(
    {
        *("rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "normal", "normal_functional"),
        *("normal_", "uniform", "uniform_", "random_", "exponential_", "exponential", "log_normal_", "cauchy_"),
        *("geometric_", "bernoulli_"),
    }
)
"""Operators whose numbers depend on nothing but shapes and settings. What draws by numbers of the network, whose rows
may have met already, and what gives them a gradient, is none of them."""


class CannotTellError(Exception):
    """What was drawn cannot be divided among rows."""


class Noise(TorchDispatchMode):
    """While it lasts, what torch draws is kept; given `known`, that is drawn in its place.

    Parameters
    ----------
    rows
        Of the whole batch.

    Attributes
    ----------
    part
        Those of them that go through the network now. Kept are the numbers of all.
    """

    def __init__(self, rows: int, known: list[Tensor] | None = None) -> None:
        super().__init__()
        self.part, self.drawn = slice(0, rows), [] if known is None else known
        self._rows, self._is_known, self._calls = rows, known is not None, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        before = torch.random.get_rng_state()
        found = func(*args, **kwargs)
        if torch.equal(before, torch.random.get_rng_state()):  # dropout of 0, say
            return found
        name = func.overloadpacket.__name__
        if name not in DRAWN or not isinstance(found, Tensor):
            raise CannotTellError(name)
        if not self._is_known:
            self.drawn.append(found.clone())
            return found
        if self._calls == len(self.drawn):
            raise CannotTellError(name)
        self._calls += 1
        return found.copy_(self._of_rows(self.drawn[self._calls - 1], found))

    def _of_rows(self, drawn: Tensor, wanted: Tensor) -> Tensor:
        """Of what the whole was given, what these rows were."""
        if drawn.shape == wanted.shape:
            return drawn
        count = self.part.indices(self._rows)
        other = [axis for axis, (a, b) in enumerate(zip(drawn.shape, wanted.shape, strict=False)) if a != b]
        if drawn.dim() != wanted.dim() or len(other) != 1 or drawn.shape[other[0]] != self._rows:
            raise CannotTellError("numbers of rows that are not rows of an axis")
        part = drawn.narrow(other[0], count[0], count[1] - count[0])
        if part.shape != wanted.shape:
            raise CannotTellError("numbers of other rows")
        return part
