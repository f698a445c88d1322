"""Networks that torch.compile has compiled, run as they are written.

What is compiled knows nothing of hooks that come later, so whoever looks into a network by hooks would see nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def eagerly() -> Iterator[None]:
    """While it lasts, nothing that is compiled runs, and nothing is compiled."""
    if "torch._dynamo" not in sys.modules:  # nothing has been compiled; to load it takes as long as to load torch
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
