"""In what products of float32 are computed: as the user has it, or while a plan's training lasts as that has it.

Scores are taken as the user has it: the network that is handed over computes so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

_given: list[tuple[str, ...]] = []
"""As the user has it, while it is otherwise."""


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """While it lasts, products of matrices and convolutions are computed in it: "bf16", or "none" for torch's choice.

    On a CPU, by oneDNN: `torch.backends.mkldnn.matmul.fp32_precision` and `conv`.
    """
    _given.append(_get())
    _put([precision] * len(_given[-1]))
    try:
        yield
    finally:
        _put(_given.pop())


@contextmanager
def as_given() -> Iterator[None]:
    """While it lasts, as the user has it."""
    if not _given:
        yield
        return
    now = _get()
    _put(_given[0])
    try:
        yield
    finally:
        _put(now)


def _settings() -> tuple[object, ...]:
    return torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv  # type: ignore[attr-defined]


def _get() -> tuple[str, ...]:
    return tuple(each.fp32_precision for each in _settings())  # type: ignore[attr-defined]


def _put(precisions: Sequence[str]) -> None:
    for each, precision in zip(_settings(), precisions, strict=True):
        each.fp32_precision = precision  # type: ignore[attr-defined]
