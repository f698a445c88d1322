"""What a task's data may be made of, as tensors and arrays: whatever is not numbers is refused here, in one line."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from ..errors import InputError
from ..task import check_data

PIECE = 4 << 20
"""Bytes that are read, converted or checked at a time."""
WIDEST = 8
"""Bytes of a number that torch has a type for."""
TWICE, LONGEST = 256, 0.25
"""Rows of a Dataset that are read twice, and seconds after which no more are."""
GOLDEN = (5**0.5 - 1) / 2
"""Multiples of it, without their whole parts, are spread evenly however many they are, and in step with no period."""


def open_data(data: Any) -> Any:
    """(X, y) or a Dataset; a function is called for it."""
    if callable(data) and not hasattr(data, "__getitem__"):
        data = data()
        check_data(data)
    if type(data) is TensorDataset and len(data.tensors) == 2:
        check_data(data.tensors)
        return data.tensors
    return data


def read_pairs(dataset: Any, rows: Iterable[int]) -> tuple[list[Any], list[Any]]:
    """X and y of a Dataset's items, as they are."""
    items = [dataset[row] for row in rows]
    for item in items:
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise InputError(f"the Dataset gives a {type(item).__name__} for a row: it must give (x, label)")
    return [item[0] for item in items], [item[1] for item in items]


def read_items(dataset: Any) -> tuple[tuple[Tensor, Tensor], list[str]]:
    """X and y of all of a Dataset's items, and what is to be said of them."""
    rows = range(len(dataset))
    check_data((rows, rows))  # that there are two at least
    xs, ys = read_pairs(dataset, rows)
    return _stacked((xs, ys)), told_of_drawing(dataset)


def told_of_drawing(dataset: Any) -> list[str]:
    """A line on a Dataset that gives something else for a row when it is asked again.

    Some of its rows are read twice, and as long as that takes little time: a Dataset may draw for few of them only. To
    be asked after whatever draws in earnest: how many are read depends on the time.
    """
    began, count = time.perf_counter(), len(dataset)
    for row in spread(count, TWICE).tolist():
        first, again = (_stacked(read_pairs(dataset, [row])) for _ in range(2))
        for name, one, other in zip(("X", "y"), first, again, strict=True):
            if not _is_same(one, other):
                return [
                    f"the Dataset draws at random (row {row} is another {name} when it is read again): rows are read "
                    "once and stay as they were drawn; to draw anew in every epoch, do it in the model's forward"
                ]
        if time.perf_counter() - began > LONGEST:
            break
    return []


def spread(count: int, most: int) -> np.ndarray:
    """Numbers of `most` of `count` rows, or a few less, int64; from row 0 on, and evenly however many are taken."""
    rows = (count * (np.arange(most) * GOLDEN % 1)).astype(np.int64)
    return rows[np.sort(np.unique(rows, return_index=True)[1])]


def _stacked(pairs: tuple[list[Any], list[Any]]) -> tuple[Tensor, Tensor]:
    """X and y of some items, copied: a Dataset may write the next into the same memory."""
    return stack("X", pairs[0]), stack("y", pairs[1])


def _is_same(one: Tensor, other: Tensor) -> bool:
    """NaN is like NaN."""
    if one.shape != other.shape:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


def stack(name: str, parts: list[Any]) -> Tensor:
    """One tensor of what a Dataset's items are made of."""
    try:
        return torch.stack([torch.as_tensor(part) for part in parts]).detach().cpu()
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"the {name} of the Dataset's rows cannot be stacked: {first_line(error)}") from None


def as_numbers(name: str, part: Any) -> Tensor | np.ndarray:
    """A tensor without its gradient or an array, not copied where it is one already."""
    if isinstance(part, Tensor):
        if part.is_complex():
            raise InputError(f"{name} holds {part.dtype} values: give real numbers, e.g. torch.view_as_real({name})")
        if part.layout != torch.strided:
            raise InputError(f"{name} is a sparse tensor: give {name}.to_dense()")
        return part.detach().cpu()
    try:
        array = np.asarray(part)
    except ValueError:
        raise InputError(f"the rows of {name} have different lengths: pad them to one") from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} holds {array.dtype} values: give numbers (labels as whole numbers from 0)")
    # numpy's longdouble has no counterpart in torch.
    return array.astype(np.float64) if array.dtype.kind == "f" and array.dtype.itemsize > WIDEST else array


def as_tensor(name: str, part: Any) -> Tensor:
    """A tensor of all of it."""
    numbers = as_numbers(name, part)
    if isinstance(numbers, Tensor):
        return numbers
    # A copy, so that a read-only or oddly ordered array is fine and the user's own is never written to.
    return torch.from_numpy(np.array(numbers, dtype=numbers.dtype.newbyteorder("="), order="C"))


def check_finite(x: Tensor, y: Tensor, loss: Any) -> None:
    """Refuse values that no training survives: of X, and of y where no loss of the user's own may know what they mean.

    Raises
    ------
    InputError
    """
    for name, part in (("X", x), ("y", y)) if loss is None else (("X", x),):
        _check_finite(name, part)


def _check_finite(name: str, x: Tensor) -> None:
    if not x.is_floating_point() or not x.numel():
        return
    # In pieces: torch makes several tensors of x's size on the way.
    pieces = x.split(max(1, PIECE // (x[0].numel() * x.element_size())))
    bad = sum(int((~torch.isfinite(piece)).sum()) for piece in pieces)
    if bad:
        raise InputError(f"{name} has {bad} values that are not finite: clean or fill them first")


def whole_labels(y: Tensor | np.ndarray) -> np.ndarray | None:
    """y as an array where it is one whole number a row, else None."""
    if y.ndim != 1:
        return None
    if isinstance(y, Tensor):
        return None if y.is_floating_point() else y.numpy()
    return None if y.dtype.kind == "f" else y


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line that it says."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"
