"""What a program leaves behind it on a rank is taken back; what cannot be is told."""

from __future__ import annotations

import builtins
import os
import signal
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from cooptim_lab.ranks.surroundings import Surroundings

CHANGES = {
    "grad mode": (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled),
    "default dtype": (lambda: torch.set_default_dtype(torch.float64), lambda: torch.zeros(1).dtype),
    "default device": (lambda: torch.set_default_device("meta"), lambda: torch.zeros(1).device),
    "determinism": (
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
        torch.is_deterministic_algorithms_warn_only_enabled,
    ),
    "anomalies": (lambda: torch.autograd.set_detect_anomaly(True), torch.is_anomaly_enabled),
    "autocast": (lambda: torch.set_autocast_enabled("cpu", True), lambda: torch.is_autocast_enabled("cpu")),
    "matmul precision": (lambda: torch.set_float32_matmul_precision("medium"), torch.get_float32_matmul_precision),
    "precision of a backend": (
        lambda: setattr(torch.backends.mkldnn.matmul, "fp32_precision", "bf16"),
        lambda: torch.backends.mkldnn.matmul.fp32_precision,
    ),
    "how tensors print": (lambda: torch.set_printoptions(precision=1), lambda: repr(torch.tensor(1 / 3))),
    "numpy's errors": (lambda: np.seterr(all="raise"), np.geterr),
    "warnings": (lambda: warnings.simplefilter("ignore", ImportWarning), lambda: list(warnings.filters)),
    "folder": (lambda: os.chdir("/"), os.getcwd),
    "environment": (lambda: os.environ.update(COOPTIM_TEST="1"), lambda: os.environ.get("COOPTIM_TEST")),
    "import path": (lambda: sys.path.insert(0, "nowhere"), lambda: list(sys.path)),
    "arguments": (lambda: sys.argv.append("more"), lambda: list(sys.argv)),
    "standard output": (lambda: setattr(sys, "stdout", None), lambda: sys.stdout),
    "a builtin": (lambda: setattr(builtins, "len", None), lambda: builtins.len),
    "a function of torch": (lambda: setattr(torch, "relu", None), lambda: torch.relu),
    "a function that is gone": (lambda: delattr(torch.nn.functional, "relu"), lambda: hasattr(nn.functional, "relu")),
    "a method of a layer": (lambda: setattr(nn.Linear, "forward", None), lambda: nn.Linear.forward),
    "a hook for all layers": (
        lambda: nn.modules.module.register_module_forward_hook(lambda *given: None),
        lambda: len(nn.modules.module._global_forward_hooks),
    ),
    "a signal": (lambda: signal.signal(signal.SIGUSR1, lambda *given: None), lambda: signal.getsignal(signal.SIGUSR1)),
    "recursion": (lambda: sys.setrecursionlimit(5000), sys.getrecursionlimit),
}


@pytest.fixture
def surroundings():
    made = Surroundings()
    yield made
    made.restore()


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_program_has_set_is_taken_back(name, surroundings):
    change, read = CHANGES[name]
    before = read()
    change()
    changed = read()
    assert surroundings.restore() == ""
    assert changed != before
    assert read() == before


def test_names_that_are_added_stay(surroundings):
    builtins.cooptim_test = 1
    surroundings.restore()
    assert builtins.cooptim_test == 1
    del builtins.cooptim_test


@pytest.mark.parametrize("entered", [torch.inference_mode, torch.overrides.TorchFunctionMode])
def test_a_mode_that_was_never_left_is_told(entered, surroundings):
    mode = entered()
    mode.__enter__()
    try:
        assert surroundings.restore().lower().replace("_", "").endswith(type(mode).__name__.lower().replace("_", ""))
    finally:
        mode.__exit__(None, None, None)
    assert surroundings.restore() == ""


def test_a_folder_that_is_gone_is_no_fault(tmp_path, monkeypatch):
    there = tmp_path / "there"
    there.mkdir()
    monkeypatch.chdir(there)
    surroundings = Surroundings()
    os.chdir(tmp_path)
    there.rmdir()
    assert surroundings.restore() == ""


def test_a_training_changes_nothing_that_is_taken_back():
    """What our own late imports put in place is not a program's doing: nothing of it may be undone."""
    program = """
        import torch, torch._dynamo
        from cooptim_lab.ranks import surroundings as room
        made = room.Surroundings()
        import cooptim_lab.programs, torch_pruning
        from torch import nn
        model = nn.Linear(2, 2)
        optimizer = torch.optim.Adam(model.parameters(), fused=True)
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        torch.func.vmap(torch.sin)(torch.ones(3))
        for each in room.namespaces():
            for name, value in each._known.items():
                assert vars(each._owner).get(name) is value, (each._owner, name)
        assert made.restore() == ""
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=120)
