"""What a program finds beside its data: Python and torch as they were when the rank began, whatever ran before it.

Taken once, given back after every job: modes, dtypes and flags of torch, numpy's ways with errors, warnings, signals,
streams, folder and environment, and what a program has put in the place of functions of the modules that training
stands on. A lock that an interrupted program has kept, or what it has added, is not seen.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import gc
import math
import os
import random
import signal
import sys
import time
import warnings
from _signal import getsignal  # type: ignore[import-not-found]  # signal's own makes an enum of each handler: 20 times as long
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.modules import module as hooks
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from .carried import environment
from .namespaces import Namespace


def _matmul_precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # a program has set it by the newer names, which this function cannot tell
        return "by backend"


def _set_precisions(known: list[str]) -> None:
    for each, precision in zip(PRECISIONS, known, strict=True):
        each.fp32_precision = precision


def _filter_warnings(known: list[Any]) -> None:
    warnings.resetwarnings()  # has what was remembered of the old ones forgotten
    warnings.filters.extend(known)  # type: ignore[attr-defined]


def _set_environment(known: dict[bytes, bytes]) -> None:
    for name in os.environb.keys() - known.keys():
        del os.environb[name]
    os.environb.update(known)


@functools.cache
def _wishes() -> Any:
    """What MPI is to be at its import, which was before all programs."""
    import mpi4py

    return mpi4py.rc


def _set_wishes(known: dict[str, Any]) -> None:
    vars(_wishes()).clear()
    vars(_wishes()).update(known)


_backends: Any = torch.backends
PRECISIONS = (
    _backends, _backends.mkldnn, _backends.mkldnn.matmul, _backends.mkldnn.conv, _backends.mkldnn.rnn,
    _backends.cuda.matmul, _backends.cudnn, _backends.cudnn.conv, _backends.cudnn.rnn,
)  # fmt: skip
STATES: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.is_grad_enabled, torch._C._set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        lambda known: torch.use_deterministic_algorithms(known[0], warn_only=known[1]),
    ),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (lambda: torch.is_autocast_enabled("cpu"), lambda known: torch.set_autocast_enabled("cpu", known)),
    (lambda: torch.get_autocast_dtype("cpu"), lambda known: torch.set_autocast_dtype("cpu", known)),
    (_matmul_precision, torch.set_float32_matmul_precision),  # sets some of the next as well
    (lambda: [each.fp32_precision for each in PRECISIONS], _set_precisions),
    (lambda: vars(torch._tensor_str.PRINT_OPTS).copy(), lambda known: vars(torch._tensor_str.PRINT_OPTS).update(known)),
    (np.geterr, lambda known: np.seterr(**known)),
    (np.get_printoptions, lambda known: np.set_printoptions(**known)),
    (gc.isenabled, lambda known: gc.enable() if known else gc.disable()),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (sys.gettrace, sys.settrace),
    (sys.getprofile, sys.setprofile),
    (lambda: list(warnings.filters), _filter_warnings),
    (lambda: list(sys.path), lambda known: sys.path.__setitem__(slice(None), known)),
    (lambda: list(sys.argv), lambda known: sys.argv.__setitem__(slice(None), known)),
    (environment, _set_environment),
    (lambda: dict(vars(_wishes())), _set_wishes),
)
"""How each is read and set. Read after every job, set where it is another."""
NAMES = ("stdin", "stdout", "stderr", "excepthook", "displayhook", "unraisablehook", "path", "argv")
OPTIMIZERS: tuple[Any, ...] = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
PATCHED: tuple[Any, ...] = (
    builtins, math, os, random, time, warnings, np, torch, torch.nn, torch.nn.functional, torch.nn.init, torch.optim,
    torch.Tensor, torch.nn.Module, torch.nn.Linear, torch.optim.Optimizer, *OPTIMIZERS,
)  # fmt: skip
HOOKS = tuple(found for name, found in vars(hooks).items() if name.startswith("_global_") and isinstance(found, dict))
SIGNALS = tuple(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD})


@functools.cache
def namespaces() -> tuple[Namespace, ...]:
    """Those that are looked after; read once, in the nursery where there is one."""
    for kind in OPTIMIZERS:  # the first of a class wraps its `step`
        kind([torch.nn.Parameter()], lr=1.0)
    return tuple(map(Namespace, PATCHED))


class Surroundings:
    """As they are when this is made."""

    def __init__(self) -> None:
        self._namespaces = namespaces()
        self._states = [read() for read, _ in STATES]
        self._names = {name: getattr(sys, name) for name in NAMES}
        self._signals = {number: getsignal(number) for number in SIGNALS}
        self._folder = os.getcwd()  # noqa: PTH109 - pathlib takes four times as long

    def restore(self) -> str:
        """Make them so again; returns what cannot be undone: in the middle of what torch was left. Often empty."""
        try:
            self._restore()
        except Exception as error:  # noqa: BLE001 - a program may have left anything in the place of anything
            return f"something that cannot be undone ({type(error).__name__}: {error})"
        return _left_inside()

    def _restore(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._signals.items():
            if getsignal(number) is not handler and handler is not None:
                signal.signal(number, handler)
        for name, known in self._names.items():
            setattr(sys, name, known)
        with contextlib.suppress(FileNotFoundError):  # then it was removed, and there is none to go back to
            os.chdir(self._folder)
        for each in self._namespaces:
            each.restore()
        sys.modules["mpi4py"].rc = _wishes()  # type: ignore[attr-defined]
        for registered in HOOKS:
            registered.clear()
        if torch._GLOBAL_DEVICE_CONTEXT.__dict__:  # only where one was set, see torch.set_default_device
            torch.set_default_device(None)
        for (read, write), known in zip(STATES, self._states, strict=True):
            if read() != known:
                write(known)


def _left_inside() -> str:
    """In what torch still is: a mode that was entered and never left."""
    if torch.is_inference_mode_enabled():
        return "torch.inference_mode"
    for mode in (*_get_current_function_mode_stack(), *_get_current_dispatch_mode_stack()):
        return type(mode).__name__
    return "torch.func" if torch._C._functorch.peek_interpreter_stack() is not None else ""
