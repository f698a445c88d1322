"""A task's data read where it is needed: the rows that are asked for, as tensors in the model's dtypes, no others.

What model and loss make of the rows, and which rank trains on which, is not known here.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..task import Task, check_data
from .forms import Form, find_form
from .mapped import FileRows, place_in_file
from .values import (
    PIECE,
    as_numbers,
    as_tensor,
    check_finite,
    open_data,
    read_pairs,
    stack,
    told_of_drawing,
    whole_labels,
)

KEPT = 32 << 20
"""Bytes of a mapped file's rows that are kept in memory, where they are no more."""


class Rows(Protocol):
    """The rows of a task, by number."""

    def __len__(self) -> int: ...

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """X and y of these rows, in the order asked for: new tensors of shape (len(rows), ...).

        Parameters
        ----------
        rows
            Row numbers, int32 or int64, 1-d; a number may come twice.

        Returns
        -------
        x, y
            x in the model's dtype (int64 where an embedding takes whole numbers), y int64 for whole-number labels, else
            the model's dtype: as `prepare` gives them.

        Raises
        ------
        InputError
            When a value of X among them is not finite.
        """
        ...

    def targets(self, rows: Tensor) -> Tensor:
        """Their y, as `take` gives it, without reading X where it lies apart."""
        ...

    def labels(self, rows: Tensor | None = None) -> np.ndarray | None:
        """The whole-number labels of these rows (None: of all), 1-d, without reading X; None where y is something else.

        It may be a view of the data: do not write to it.
        """
        ...


class TensorRows:
    """Rows of tensors that are in the model's dtypes already."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self._x, self._y = x, y

    def __len__(self) -> int:
        return len(self._x)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self._x.index_select(0, rows), self._y.index_select(0, rows)  # in less than half the time of x[rows]

    def targets(self, rows: Tensor) -> Tensor:
        return self._y.index_select(0, rows)

    def labels(self, rows: Tensor | None = None) -> np.ndarray | None:
        return whole_labels(self._y if rows is None else self._y[rows])


class ArrayRows:
    """Rows of arrays, tensors or lists. A file that is mapped (np.memmap) is read as far as its rows are taken."""

    def __init__(self, x: Any, y: Any, form: Form, loss: Any = None) -> None:
        self._x, self._y, self._form, self._loss = _Column("X", x), _Column("y", y), form, loss

    def __len__(self) -> int:
        return len(self._x.values)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        ascending, order = _in_order(rows)
        x = self._x.take(ascending, order, self._form.of_x(self._x.is_floating))
        y = self._take_y(ascending, order)
        check_finite(x, y, self._loss)
        return x, y

    def targets(self, rows: Tensor) -> Tensor:
        return self._take_y(*_in_order(rows))  # whether they are finite, is asked when they are trained on

    def _take_y(self, ascending: np.ndarray, order: np.ndarray) -> Tensor:
        return self._y.take(ascending, order, self._form.of_y(self._y.is_floating))

    def labels(self, rows: Tensor | None = None) -> np.ndarray | None:
        if whole_labels(self._y.values[:1]) is None:
            return None
        if rows is None and not self._y.is_mapped:
            return whole_labels(self._y.values)
        wanted = np.arange(len(self)) if rows is None else rows.numpy().astype(np.int64)
        order = np.argsort(wanted, kind="stable")
        return self._y.take(wanted[order], order, torch.int64).numpy()

    @property
    def is_mapped(self) -> bool:
        """Whether X lies in a file that is mapped."""
        return self._x.is_mapped


class DatasetRows:
    """Rows of a torch Dataset, one item each; row 0 says of which kind they all are."""

    def __init__(self, dataset: Any, model: nn.Module, loss: Any = None) -> None:
        self._loss = loss
        check_data((range(len(dataset)), range(len(dataset))))  # that there are two at least
        first = read_pairs(dataset, [0])
        self.dataset, self._form = dataset, find_form(model, stack("X", first[0]))
        self._first_x, self._first_y = self._formed(*first)

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        if not len(rows):
            return self._first_x[:0], self._first_y[:0]
        x, y = self._read(rows.tolist())
        return _as_first("X", x, self._first_x), _as_first("y", y, self._first_y)

    def targets(self, rows: Tensor) -> Tensor:
        return self.take(rows)[1]

    def labels(self, rows: Tensor | None = None) -> np.ndarray | None:
        """From the Dataset's `targets`, where it has them as those of torchvision do; else from its items, in turn."""
        if whole_labels(self._first_y) is None:
            return None
        known = self._targets()
        if known is None:
            wanted = range(len(self)) if rows is None else rows.tolist()
            labels = [read_pairs(self.dataset, [row])[1][0] for row in wanted]  # an X at a time
            return _as_first("y", stack("y", labels), self._first_y).numpy()
        return known if rows is None else known[rows.numpy()]

    def _targets(self) -> np.ndarray | None:
        if getattr(self.dataset, "target_transform", None) is not None:  # the items' labels are others
            return None
        try:
            known = whole_labels(as_numbers("targets", getattr(self.dataset, "targets", None)))
        except InputError:  # whatever they are, they are not labels
            return None
        return known if known is not None and len(known) == len(self) and known[0] == int(self._first_y) else None

    def _read(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        return self._formed(*read_pairs(self.dataset, rows))

    def _formed(self, given_x: list[Any], given_y: list[Any]) -> tuple[Tensor, Tensor]:
        x, y = stack("X", given_x), stack("y", given_y)
        x, y = x.to(self._form.of_x(x.is_floating_point())), y.to(self._form.of_y(y.is_floating_point()))
        check_finite(x, y, self._loss)
        return x, y


def open_rows(task: Task, model: nn.Module) -> Rows:
    """The rows of a task's data, for this model; data that is a function is called.

    Raises
    ------
    InputError
        When the data is not (X, y) or a Dataset, or holds something else than numbers.
    """
    data = open_data(task.data)
    if isinstance(data, (tuple, list)):
        form = find_form(model, as_tensor("X", data[0][:2]))
        return ArrayRows(data[0], data[1], form, task.loss)
    return DatasetRows(data, model, task.loss)


def what_draws(rows: Rows) -> list[str]:
    """A line on rows that are another when they are read again."""
    return told_of_drawing(rows.dataset) if isinstance(rows, DatasetRows) else []


class SomeRows:
    """Some of other rows, numbered anew."""

    def __init__(self, rows: Rows, which: Tensor) -> None:
        self._rows, self._which = rows, which

    def __len__(self) -> int:
        return len(self._which)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self._rows.take(self._which[rows])

    def targets(self, rows: Tensor) -> Tensor:
        return self._rows.targets(self._which[rows])

    def labels(self, rows: Tensor | None = None) -> np.ndarray | None:
        return self._rows.labels(self._which if rows is None else self._which[rows])


def keep(rows: Rows, which: Tensor) -> Rows:
    """`which` of some rows, numbered anew: read now, once; where they lie in a mapped file and are many, as taken."""
    one = rows.take(which[:1])
    size = len(which) * sum(part.numel() * part.element_size() for part in one)
    if isinstance(rows, ArrayRows) and rows.is_mapped and size > KEPT:
        return SomeRows(rows, which)
    return TensorRows(*rows.take(which))


class _Column:
    """X or y as it was given: rows of it are converted when they are taken."""

    def __init__(self, name: str, part: Any) -> None:
        self.values = as_numbers(name, part)
        self.is_floating = (
            self.values.is_floating_point() if isinstance(self.values, Tensor) else self.values.dtype.kind == "f"
        )
        self._row_bytes = max(1, self.values.itemsize * int(np.prod(self.values.shape[1:])))
        start = place_in_file(part) if isinstance(part, np.memmap) else None
        self._file = None if start is None else FileRows(part, start)

    @property
    def is_mapped(self) -> bool:
        return self._file is not None

    def take(self, rows: np.ndarray, places: np.ndarray, dtype: torch.dtype) -> Tensor:
        """Rows in ascending order, each put where it is wanted in the result; converted in pieces."""
        taken = torch.empty((len(rows), *self.values.shape[1:]), dtype=dtype)
        step = max(1, PIECE // self._row_bytes)
        for start in range(0, len(rows), step):
            piece = slice(start, start + step)
            taken[torch.from_numpy(places[piece])] = self._read(rows[piece]).to(dtype)
        return taken

    def _read(self, rows: np.ndarray) -> Tensor:
        if isinstance(self.values, Tensor):
            return self.values[torch.from_numpy(rows)]
        found = self.values[rows] if self._file is None else self._file.read(rows)
        return torch.from_numpy(np.ascontiguousarray(found, dtype=found.dtype.newbyteorder("=")))


def _in_order(rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers ascending, since neighbours in a file are read together; and of each the place where it is wanted."""
    wanted = rows.numpy().astype(np.int64)  # numpy would convert int32 anew in every search among them
    order = np.argsort(wanted, kind="stable")
    return wanted[order], order


def _as_first(name: str, part: Tensor, first: Tensor) -> Tensor:
    """In the dtype of row 0, so that every batch has the same."""
    if part.dtype != first.dtype and not first.is_floating_point():
        raise InputError(f"the Dataset gives whole numbers as {name} of row 0 but not of all rows: give floats for all")
    return part.to(first.dtype)
