"""Which device a rank's sub-networks train on. What they do there is not known here."""

from __future__ import annotations

import torch

from ...errors import InputError

CPU = torch.device("cpu")


def choose_device(wanted: str, rank: int) -> torch.device:
    """The device that a rank trains on. `auto`: a GPU where torch can use one; ranks go round the GPUs in turn.

    Raises
    ------
    InputError
        When a GPU is wanted and torch can use none.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return CPU
    if not torch.cuda.is_available():
        why = "this torch was built without CUDA" if torch.version.cuda is None else "torch finds no GPU"
        raise InputError(f"device = cuda: {why}; give cpu, or auto")
    return torch.device("cuda", rank % torch.cuda.device_count())
