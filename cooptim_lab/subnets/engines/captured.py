"""A training step as one CUDA graph. What the step does, and which GPU it is on, is its maker's choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...errors import InputError
from ...preparing.hooks import own_steps
from ...training.loop import Step

WARM_UP = 3
"""Steps made one operation at a time before one is captured: libraries choose their kernels in them."""


def can_capture(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer's step does the same operations every time, and its counts live on the GPU."""
    if own_steps(optimizer):  # what hangs on it would be called once, when the step is captured
        return False
    return isinstance(optimizer, torch.optim.SGD) or all(group.get("capturable") for group in optimizer.param_groups)


class CapturedStep:
    """A step whose operations are recorded once, as a CUDA graph, and from then on launched together.

    A small network's step is hundreds of kernels of a few microseconds: launching them one by one takes longer than
    they do. See "CUDA semantics: CUDA Graphs" in torch's documentation for what such a step may do. Batches of another
    shape than the first (an epoch's last) are made one operation at a time.

    Parameters
    ----------
    step
        Losses (curves,) of row numbers on `device`; always the same operations, on tensors that stay where they are.
    is_steady
        Whether that is so still; where not, steps are made one operation at a time.

    Raises
    ------
    InputError
        At the first step that is captured, when it does what a graph cannot hold (a loss that looks at its values).
    """

    def __init__(self, step: Step[Tensor], device: torch.device, is_steady: Callable[[], bool] = lambda: True) -> None:
        self._step, self._device, self._is_steady = step, device, is_steady
        self._stream = torch.cuda.Stream(device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._rows: Tensor | None = None
        self._losses = torch.empty(0)
        self._seen = 0

    def __call__(self, rows: Tensor | Sequence[Tensor]) -> Tensor:
        """One step, or several given as a sequence: losses (curves,) or (curves, steps)."""
        if not isinstance(rows, Tensor):
            return torch.stack([self(each) for each in rows], 1)
        if self._rows is None:
            self._rows = rows.to(self._device)
        if rows.shape != self._rows.shape or not self._is_steady():
            return self._step(rows.to(self._device))
        self._rows.copy_(rows)
        if self._seen < WARM_UP:
            self._seen += 1
            return self._aside()
        if self._graph is None:
            self._capture()
        assert self._graph is not None
        self._graph.replay()
        return self._losses.clone()

    def _capture(self) -> None:
        """Record the step; it does not run."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._losses = self._step(self._rows)  # type: ignore[arg-type]
        except RuntimeError as error:
            why = str(error).splitlines()[0]
            raise InputError(f"device = cuda: a step of this task cannot be captured ({why}); give cpu") from error
        self._graph = graph

    def _aside(self) -> Tensor:
        """A step on a stream of its own, as capturing asks of those before it."""
        assert self._rows is not None
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            losses = self._step(self._rows)
        current.wait_stream(self._stream)
        return losses
