"""Seeds that do not collide: one for every place that draws, from the run's seed and what the place is."""

from __future__ import annotations

import random
from typing import Any

import numpy as np


def derive(*parts: int) -> int:
    """A 63-bit seed from whole numbers of any size, all of which count, in their order, but zeros at the end.

    By numpy's SeedSequence: near inputs give unrelated seeds, which a sum or a product of them would not.
    """
    return int(np.random.SeedSequence(list(parts)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_all(seed: int) -> None:
    """Of torch's, numpy's and Python's generators: an initialisation may draw from any."""
    import torch

    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def is_generator(value: Any) -> bool:
    """Whether it is a generator of one's own, which `seed_all` does not reach."""
    import torch

    return isinstance(value, (np.random.Generator, np.random.RandomState, random.Random, torch.Generator))
