"""Names of modules and classes as they were, put back where a program has changed them.

Whether it has is asked without a look at them: a look at a value counts a reference to it, which writes to its page.
For all functions of torch and numpy that is 3.3 MiB, which a forked rank no longer shares, and 150 µs a job. Python
counts the changes of every dict (PEP 509); this is its own affair, and goes with Python 3.14: where the count does not
move, every value is looked at.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Mapping
from typing import Any

COUNT = object.__basicsize__ + ctypes.sizeof(ctypes.c_ssize_t)
"""Where it is in CPython's PyDictObject: behind what every object has, and the number of keys."""


class Namespace:
    """What a module or a class has under each name, as it is when this is made; best before a fork."""

    def __init__(self, owner: Any) -> None:
        self._owner, self._known = owner, dict(vars(owner))
        self._counted = changes(vars(owner)) if IS_COUNTED else None
        self._seen = self._counted.value if self._counted else 0

    def restore(self) -> None:
        """Put back what is another, or gone; what was added stays."""
        if self._counted and self._counted.value == self._seen:
            return
        now = vars(self._owner)
        for name, value in self._known.items():
            if now.get(name, self._owner) is not value:
                setattr(self._owner, name, value)
        if self._counted:
            self._seen = self._counted.value


def changes(names: Mapping[str, Any]) -> ctypes.c_uint64:
    """How often a dict, or a class's, was changed; its `value` is read anew each time."""
    behind = names if isinstance(names, dict) else gc.get_referents(names)[0]  # a class shows its own by a proxy
    return ctypes.c_uint64.from_address(id(behind) + COUNT)


def _is_counted() -> bool:
    names = {"a": 1}
    counted = changes(names)
    before = counted.value
    names.get("a")
    after_reading, names["a"] = counted.value, 2
    return before == after_reading != counted.value


IS_COUNTED = _is_counted()
