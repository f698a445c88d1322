"""Parameters and buffers over one memory, which come apart wherever a network is copied or sent.

One Parameter under several names stays one everywhere: that is how layers are tied. Two tensors of which one is trained
are refused, as an optimizer has them lie elsewhere; others are found, and travel as views of one memory. No torch is
loaded here: the kernel packs tasks without it.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn


class Shared:
    """Tensors of some networks, none of them trained, that have numbers in common with another: as one memory's."""

    def __init__(self) -> None:
        self._memory: dict[int, Tensor] = {}
        """By the address of a storage, its bytes: kept, so that a pickle has them once."""
        self._views: dict[int, Tensor] = {}
        """By its id, a tensor that is to be a view of them."""

    def look_at(self, network: nn.Module) -> None:
        """Find those of a network.

        Raises
        ------
        InputError
            When a parameter that is trained has numbers in common with another parameter, or with a buffer: which two,
            and how to tie them.
        """
        for name, tensor, other, earlier in _overlapping(network):
            if tensor.requires_grad or earlier.requires_grad:
                raise InputError(
                    f"{other} and {name} are two tensors over one memory, which come apart where the model is "
                    "copied or sent: make them one Parameter (decoder.weight = encoder.weight), and compute what "
                    "is another view of it in forward"
                )
            self._views |= {id(each): each for each in (tensor, earlier) if _is_a_view_of_bytes(each)}

    def __contains__(self, tensor: object) -> bool:
        return id(tensor) in self._views

    def reduced(self, tensor: Tensor) -> tuple[Any, ...]:
        """How such a tensor is pickled: the memory, and where in it it lies."""
        torch = sys.modules["torch"]
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._memory:
            empty = torch.empty(0, dtype=torch.uint8, device=tensor.device)
            self._memory[storage.data_ptr()] = empty.set_(storage)
        memory = self._memory[storage.data_ptr()]
        is_parameter = isinstance(tensor, torch.nn.Parameter)
        where = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
        return _view, (memory, tensor.dtype, where, is_parameter)


def refuse_to_move(network: nn.Module) -> None:
    """Refuse to bring a network to another device, as torch does it: what is one memory here would be several there.

    Raises
    ------
    InputError
        Which two tensors, and what to do.
    """
    for name, _, other, _ in _overlapping(network):
        raise InputError(
            f"{other} and {name} are two tensors over one memory, which come apart on the way to a GPU: give device = "
            "cpu, or compute one of them from the other in forward"
        )


def _view(memory: Tensor, dtype: Any, where: tuple[Any, ...], is_parameter: bool) -> Tensor:
    import torch

    made = torch.empty(0, dtype=dtype, device=memory.device)
    made.set_(memory.untyped_storage(), *where)
    return torch.nn.Parameter(made, requires_grad=False) if is_parameter else made


def _is_a_view_of_bytes(tensor: Tensor) -> bool:
    """Whether it is that, and nothing else: it has no attributes of its own."""
    return not (vars(tensor) or tensor.is_conj() or tensor.is_neg())


def _overlapping(network: nn.Module) -> Iterable[tuple[str, Tensor, str, Tensor]]:
    """Pairs of parameters and buffers with numbers in common, by their names."""
    torch = sys.modules["torch"]
    places: dict[int, list[tuple[str, Tensor]]] = defaultdict(list)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout == torch.strided and tensor.numel():
            places[tensor.untyped_storage().data_ptr()].append((name, tensor))
    for place, held in places.items():
        for at, (name, tensor) in enumerate(held if place else ()):  # none: no memory, as on the device meta
            for other, earlier in held[:at]:
                if _reach(tensor, earlier) and _overlap(tensor, earlier):
                    yield name, tensor, other, earlier


def _reach(one: Tensor, other: Tensor) -> bool:
    """Whether from the first to the last byte of each there is one between those of the other: asked of many pairs."""
    (first, end), (start, last) = map(_extent, (one, other))
    return first < last and start < end


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Of bytes of its storage: the first, and that after the last."""
    size, first = tensor.element_size(), int(tensor.storage_offset())
    numbers = 1 + sum((count - 1) * int(step) for count, step in zip(tensor.shape, tensor.stride(), strict=True))
    return first * size, (first + numbers) * size


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
