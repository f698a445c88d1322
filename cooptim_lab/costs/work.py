"""What a step of training computes and moves, as numbers: by layer, forward and backward, and by the optimizer.

Operations are the additions and multiplications of matrix products and convolutions, as `torch.utils.flop_counter` has
it; what else an operator does counts by the bytes that it reads and writes. `counting` finds them, on a rank; here they
are kept, added up and sent as JSON, and torch is not known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Product:
    """`times` products of m × k by k × n in one call of an operator: a convolution is one, for each group."""

    m: int
    k: int
    n: int
    times: int = 1

    @property
    def operations(self) -> int:
        """2 m k n for each: a multiplication and an addition."""
        return 2 * self.m * self.k * self.n * self.times


@dataclass(frozen=True)
class Call:
    """`times` calls of one operator, alike in what they move and multiply."""

    operator: str
    """Its name without the overload's: "addmm"."""
    bytes: int = 0
    """Of each call."""
    products: tuple[Product, ...] = ()
    """Of each call, where the sides are known."""
    operations: int = 0
    """Of each call."""
    times: int = 1

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any]) -> Call:
        """What `asdict` made of it, and JSON of that."""
        return cls(**{**summary, "products": tuple(Product(**one) for one in summary["products"])})


@dataclass(frozen=True)
class Work:
    """What a number of operators compute and move."""

    operations: int = 0
    bytes: int = 0
    """That they read and write, by the shapes of their inputs (weights too) and outputs: each operator for itself."""
    operators: int = 0
    """Calls that compute or move something."""
    views: int = 0
    """Calls that only look at their input in another way: no bytes, but a call's time."""
    products: tuple[Product, ...] = ()
    """Their products, where their sides are known: what `operations` are of."""
    product_bytes: int = 0
    """Of `bytes`, those of the calls with operations."""
    calls: tuple[Call, ...] = ()
    """The same by operator, those that only look left out; empty in what an older version has counted."""

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @property
    def intensity(self) -> float | None:
        """Operations per byte of the calls that have any; None where there are none."""
        return self.operations / self.product_bytes if self.operations and self.product_bytes else None

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any]) -> Work:
        """What `asdict` made of it, and JSON of that."""
        return cls(
            **{
                **summary,
                "products": tuple(Product(**one) for one in summary["products"]),
                "calls": tuple(map(Call.from_summary, summary.get("calls", ()))),
            }
        )

    def merged(self) -> Work:
        """The same, with calls that are alike as one."""
        counts: dict[Call, int] = {}
        for call in self.calls:
            alike = replace(call, times=1)
            counts[alike] = counts.get(alike, 0) + call.times
        return replace(self, calls=tuple(replace(call, times=times) for call, times in counts.items()))


def total(works: Iterable[Work]) -> Work:
    """All of them together."""
    return sum(works, Work())


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A module of the network, without the modules inside it, and its part of a step."""

    name: str
    """As `named_modules` has it: that of the network itself is empty."""
    kind: str
    """Its class."""
    parameters: int
    """Of its own."""
    forward: Work
    backward: Work
    seconds: tuple[float, ...] = ()
    """Of its forward pass in training, of each of the rounds in which it was timed; empty where it was not."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step of training: the layers in the order in which they are called, then what is not in any."""

    name: str
    """The task's."""
    rows: int
    """Of the batch."""
    precision: str
    """Of the parameters: "float32"."""
    threads: int
    """With which the layers were timed."""
    layers: tuple[Layer, ...]
    loss: Work
    """Forward and backward."""
    optimizer: Work
    parameters: int
    """That are trained."""
    tensors: int
    """That hold them."""

    @property
    def whole(self) -> Work:
        """All of it."""
        return total([*(layer.forward + layer.backward for layer in self.layers), self.loss, self.optimizer])

    def summary(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any]) -> Step:
        """What `summary` wrote."""
        layers = tuple(
            Layer(
                **{
                    **one,
                    "forward": Work.from_summary(one["forward"]),
                    "backward": Work.from_summary(one["backward"]),
                    "seconds": tuple(one["seconds"]),
                }
            )
            for one in summary["layers"]
        )
        works = {name: Work.from_summary(summary[name]) for name in ("loss", "optimizer")}
        return cls(**{**summary, "layers": layers, **works})
