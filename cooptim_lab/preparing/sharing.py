"""Parameters and buffers over one memory: they come apart wherever a network is copied or sent, so they are refused.

One Parameter under several names stays one everywhere: that is how layers are tied. No torch is loaded here: the kernel
packs tasks without it.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn


def refuse_shared_memory(network: nn.Module) -> None:
    """Refuse a parameter that is trained and has numbers in common with another parameter, or with a buffer.

    Raises
    ------
    InputError
        Which two, and how to tie them.
    """
    torch = sys.modules["torch"]
    places: dict[int, list[tuple[str, Tensor]]] = defaultdict(list)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout == torch.strided and tensor.numel():
            places[tensor.untyped_storage().data_ptr()].append((name, tensor))
    for place, held in places.items():
        for at, (name, tensor) in enumerate(held if place else ()):  # none: no memory, as on the device meta
            for other, earlier in held[:at]:
                if (tensor.requires_grad or earlier.requires_grad) and _overlap(tensor, earlier):
                    raise InputError(
                        f"{other} and {name} are two tensors over one memory, which come apart where the model is "
                        "copied or sent: make them one Parameter (decoder.weight = encoder.weight), and compute what "
                        "is another view of it in forward"
                    )


def _overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of one storage have a byte in common: views that lie beside each other have none."""
    torch = sys.modules["torch"]
    marked = torch.zeros(one.untyped_storage().nbytes(), dtype=torch.bool)
    _bytes_of(marked, one).fill_(True)
    return bool(_bytes_of(marked, other).any())


def _bytes_of(marked: Tensor, tensor: Tensor) -> Tensor:
    """A mark for every byte of the storage -> those of a tensor, (its shape..., bytes of a number)."""
    size = tensor.element_size()
    strides = [stride * size for stride in tensor.stride()]
    return marked.as_strided((*tensor.shape, size), (*strides, 1), tensor.storage_offset() * size)
