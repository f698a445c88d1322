"""A training's state on disk, from which it goes on: `ordered` bit for bit as if nothing had happened.

One file for all ranks, written by rank 0: model and optimizer, what each rank remembers by itself, the state of every
random generator, the position in the data. It is complete under its name or not there: written beside, synced, renamed.
The file before it is kept, should the disk have damaged the newest. `torch.load(weights_only=True)` reads it: a
checkpoint from a stranger can be wrong, but not run anything.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import InputError

FORMAT = 2
BEFORE = ".before"
"""Ends the name of the checkpoint before the newest."""


def random_state() -> dict[str, Any]:
    """Of torch's, numpy's and Python's generators, as tensors and numbers."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, numbers, following = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
        "python": (version, torch.tensor(numbers), following),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Let the generators go on from there."""
    torch.set_rng_state(state["torch"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, numbers, following = state["python"]
    random.setstate((version, tuple(numbers.tolist()), following))


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Put a state under `path`; what was there is kept beside it.

    Raises
    ------
    OSError
        When it cannot be written: what was there is there still.
    """
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # rank 0's host may have none of the kernel's
        for stale in path.parent.glob(f"{path.name}.[0-9]*"):  # of a rank that was killed while it wrote
            stale.unlink(missing_ok=True)
        with fresh.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            path.replace(before(path))
        fresh.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        if isinstance(error, RuntimeError):  # torch's word for a disk that takes no more
            raise OSError(str(error).splitlines()[0]) from error
        raise


def before(path: Path) -> Path:
    """Where the checkpoint before the newest is."""
    return path.with_name(path.name + BEFORE)


def exists(path: Path) -> bool:
    """Whether there is one to go on from."""
    return path.exists() or before(path).exists()


def read(path: Path) -> tuple[dict[str, Any], str]:
    """The newest state that can be read, and what is to be said of one that cannot; empty where all is well.

    Raises
    ------
    InputError
        When there is none.
    """
    said = ""
    for each in (path, before(path)):
        if not each.exists():
            continue
        try:
            state = torch.load(io.BytesIO(each.read_bytes()), weights_only=True)
            if state["format"] != FORMAT:
                raise ValueError(f"format {state['format']}")
        except Exception as error:  # noqa: BLE001 - a damaged file may raise anything
            why = (str(error).splitlines() or [type(error).__name__])[0]
            said = said or f"the newest checkpoint cannot be read ({why}): the one before is used"
            continue
        return state, said
    if said:
        raise InputError(f"the checkpoint {path} cannot be read: it is damaged, and there is none before it")
    raise InputError(f"there is no checkpoint {path}: the run ended before its first one (--save-every)")


def signature(model: nn.Module) -> list[tuple[str, tuple[int, ...], str]]:
    """Names, shapes and types of what a model is made of."""
    state = model.state_dict()
    return [(name, tuple(value.shape), str(value.dtype)) for name, value in state.items() if hasattr(value, "shape")]


def check_same(one: Any, other: Any, said: str) -> None:
    """Refuse two signatures that differ, naming the first difference.

    Raises
    ------
    InputError
    """
    if one == other:
        return
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            shown = " and ".join(f"{name} {tuple(shape)} {kind}" for name, shape, kind in (mine, theirs))
            raise InputError(f"{said}: {shown}")
    raise InputError(f"{said}: {len(one)} and {len(other)} tensors")
