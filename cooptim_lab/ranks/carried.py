"""What the notebook has set and a program on a rank is to find: its folder, import path, environment, and torch's ways.

Read in the kernel when a job is submitted, applied on a rank before the job is opened; the rank takes it back
(surroundings.py). Of the environment what was changed since the kernel began travels, less what belongs to MPI and to
this package: hosts have their own.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass


def environment() -> dict[bytes, bytes]:
    """As it is now. `dict(os.environ)` calls Python for every name: a hundred times as long."""
    return dict(vars(os.environ)["_data"])


BEFORE = environment()
KEPT_BACK = ("PMI", "MPI", "HYDRA", "HYDI", "OMPI", "PRTE", "PMIX", "I_MPI", "COOPTIM", "MPLBACKEND", "PYTHONPATH")
"""How the names of variables begin that do not travel."""


@dataclass(frozen=True)
class Carried:
    """What travels with a job.

    Attributes
    ----------
    folder, path
        The working directory, and where modules are looked for.
    environment
        Variables that were set since the kernel began, or (None) removed.
    dtype
        The name of torch's default dtype; None where the notebook has not imported torch.
    is_deterministic, only_warns
        See `torch.use_deterministic_algorithms`.
    """

    folder: str
    path: tuple[str, ...]
    environment: Mapping[str, str | None]
    dtype: str | None = None
    is_deterministic: bool = False
    only_warns: bool = False

    @classmethod
    def read(cls) -> Carried:
        """As things are now in this process."""
        try:
            folder = os.getcwd()  # noqa: PTH109 - it need not exist any more
        except FileNotFoundError:
            folder = ""
        names = {os.fsdecode(name) for name, _ in environment().items() ^ BEFORE.items()}
        changed = {name: os.environ.get(name) for name in names if not name.startswith(KEPT_BACK)}
        torch = sys.modules.get("torch")
        if torch is None or not hasattr(torch, "get_default_dtype"):  # not imported, or not to its end
            return cls(folder, tuple(sys.path), changed)
        return cls(
            folder,
            tuple(sys.path),
            changed,
            str(torch.get_default_dtype()).removeprefix("torch."),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        )

    def apply(self) -> None:
        """Here, on a rank. Another host may not have the folder: then the rank stays where it is."""
        import torch

        with contextlib.suppress(OSError):
            os.chdir(self.folder)
        sys.path[:] = [*self.path, *(entry for entry in sys.path if entry not in self.path)]
        for name, value in self.environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if self.dtype is not None:
            torch.set_default_dtype(getattr(torch, self.dtype))
        if self.is_deterministic:
            torch.use_deterministic_algorithms(True, warn_only=self.only_warns)
