"""Dealing anew: what all parts have learned is put back into the network, with what their optimizers remember.

Ranks meet here; which parts are on which of them, how they train and what the clock says is not known.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..comm.objects import allgather
from .memory import Memory
from .split import Division
from .states import State, state_of
from .units import Part, Units


def put_together(
    comm: Any, division: Division, states: Iterable[State], memory: Sequence[Memory], lost: Collection[int]
) -> tuple[dict[str, Tensor], Memory]:
    """The whole network's tensors, and what one optimizer of it would remember; without the parts that are lost.

    Collective: every rank brings its parts, in the order of their numbers, and gets the whole.

    Parameters
    ----------
    states, memory
        What this rank's parts have learned, and what the optimizer of each remembers.
    lost
        The numbers of this rank's parts that diverged.
    """
    units = division.units
    assert units is not None
    own = [{name: value.clone() for name, value in state.items()} for state in states]
    everyone = allgather(comm, (own, memory, sorted(lost)))
    states, memory, without = (list(itertools.chain.from_iterable(of)) for of in zip(*everyone, strict=True))
    sound = [i for i in range(division.subnets) if i not in without]
    parts = [division.parts[i] for i in sound]
    whole = units.join(state_of(division.model), [states[i] for i in sound], parts)
    remembered: dict[str, dict[str, Tensor]] = {}
    for key, of in memory[sound[0]].items():
        if "" in of:
            remembered[key] = of
            continue
        zero = {name: torch.zeros_like(whole[name]) for name in of}
        remembered[key] = units.join(zero, [memory[i][key] for i in sound], parts)
    return whole, remembered


def cut_memory(units: Units, memory: Memory, part: Part) -> Memory:
    """Of what the whole network's optimizer would remember, what a part's does."""
    return {key: of if "" in of else units.cut(of, part) for key, of in memory.items()}
