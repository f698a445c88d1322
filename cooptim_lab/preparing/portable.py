"""Layers that no pickle takes: they are refused by what they are, wherever a network is copied or sent.

No torch is loaded here: the kernel packs tasks without it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from torch import nn


def refuse_what_cannot_travel(network: nn.Module) -> None:
    """Refuse a network with a layer that torch.jit has made, or with a parametrization.

    Raises
    ------
    InputError
        Which layer, what it is, and what to do.
    """
    torch = sys.modules["torch"]
    for path, module in network.named_modules():
        what = f"layer {path}" if path else "the network"
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"{what} was made by torch.jit (script or trace), which cannot be copied or sent: give the plain "
                "nn.Module that it was made of, and let torch.jit make another of the trained network"
            )
        if torch.nn.utils.parametrize.is_parametrized(module):
            name = next(iter(module.parametrizations))
            raise InputError(
                f"{what} computes its {name} by a parametrization (torch.nn.utils.parametrizations), which cannot be "
                f"copied or sent: compute {name} in the forward of a layer of your own, or make it plain by "
                f"parametrize.remove_parametrizations(layer, {name!r})"
            )
