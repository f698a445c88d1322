"""A mode of torch's functions that lasts while gradients are computed: there layers may be called again.

A checkpoint (`torch.utils.checkpoint`) keeps no activations of its layers; the backward pass calls them once more. But
torch lays a mode aside while the mode looks at a function, and `backward` is one. What is done to functions is not
known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.torch_version import TorchVersion

HAS_PLACES = TorchVersion(torch.__version__) >= "2.7"


class Lasting(TorchFunctionMode):
    """While it lasts, `call` is called in the place of every function of torch's, also of those within `backward`."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function in (Tensor.backward, torch.autograd.backward) and kwargs.get("inputs") is None:
            with self:
                return _backward(*args, **kwargs)
        return self.call(function, *args, **kwargs)

    def call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)


def _backward(
    tensors: Tensor | Sequence[Tensor], gradient: Any = None, retain_graph: Any = None, create_graph: bool = False,
    *, grad_tensors: Any = None, inputs: None = None,
) -> None:  # fmt: skip
    """By the places in the graph, which torch takes for no tensors: no mode is asked about them."""
    every = (tensors,) if isinstance(tensors, Tensor) else tuple(tensors)
    given = gradient if grad_tensors is None else grad_tensors
    gradients = (given,) * len(every) if given is None or isinstance(given, Tensor) else tuple(given)
    known = [torch.ones_like(t) if g is None else g for t, g in zip(every, gradients, strict=True)]
    # Before 2.7 torch takes no such places, and asks no mode about tensors either.
    edges: Any = [get_gradient_edge(each) for each in every] if HAS_PLACES else every
    torch.autograd.backward(edges, known, retain_graph=retain_graph, create_graph=create_graph)
