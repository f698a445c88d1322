"""What a cell's last expression gave, on its way to the notebook: itself, or words for it where it cannot travel."""

from __future__ import annotations

import pickle
from typing import Any

import cloudpickle


class Value:
    """Pickled, it is opened as what it holds; where that cannot be pickled, or opened there, as `Words`."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        try:
            data = cloudpickle.dumps(self._value)
        except Exception:  # noqa: BLE001 - pickling runs the user's own code
            return Words, (_repr(self._value),)
        return _open, (data, type(self._value).__qualname__)


class Words:
    """Stands for a value that cannot travel: looks like it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _open(data: bytes, kind: str) -> Any:
    try:
        return pickle.loads(data)
    except Exception as error:  # noqa: BLE001 - opening an object may raise anything
        return Words(f"<{kind}, which cannot be opened here: {type(error).__name__}: {error}>")


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - the user's own code too
        return object.__repr__(value)
