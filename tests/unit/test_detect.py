"""Detection on the machine that runs the tests, and what it costs to import."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from cooptim_lab import hardware as package
from cooptim_lab.hardware import allowed_cpus, detect, rows, summary
from tests import support


def test_this_machine() -> None:
    hardware = detect()
    json.dumps(asdict(hardware), allow_nan=False)
    assert hardware.workers == allowed_cpus() >= 1
    assert hardware.workers <= (os.cpu_count() or 1)
    assert hardware.memory_total
    assert hardware.mpi.mpi4py
    if sys.platform == "linux":  # Apple's own BLAS does not show itself
        assert "blas" in {library.kind for library in hardware.libraries}
    assert all(isinstance(text, str) for row in rows(hardware) for text in row)
    assert summary(hardware).count(" · ") == 4


def loads(code: str) -> set[str]:
    """The modules that `code` loads in a fresh interpreter which has loaded the engine's top level."""
    script = f"import cooptim_lab, sys; before = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before))"
    done = support.run_python(script)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_else() -> None:
    assert loads("import cooptim_lab.hardware") == {"cooptim_lab.hardware"}


def test_counting_cpus_loads_what_counts_them() -> None:
    loaded = loads("from cooptim_lab.hardware import allowed_cpus; allowed_cpus()")
    ours = {name.rpartition(".")[2] for name in loaded if name.startswith("cooptim_lab.")}
    assert ours == {"hardware", "cpus", "cgroups", "readings"}
    assert loaded.isdisjoint({"numpy", "psutil", "pynvml", "threadpoolctl", "torch", "IPython", "subprocess"})


def test_detect_imports_neither_torch_nor_mpi() -> None:
    loaded = loads("from cooptim_lab.hardware import detect, rows, summary; hw = detect(); rows(hw); summary(hw)")
    assert loaded.isdisjoint({"torch", "mpi4py", "mpi4py.MPI", "IPython"})


def test_the_look_at_loaded_modules_can_fail() -> None:
    assert {"mpi4py", "psutil"} <= loads("import mpi4py, psutil")


def test_no_module_stands_where_a_public_name_is_looked_for() -> None:
    modules = {path.stem for path in Path(package.__file__).parent.glob("*.py")}
    assert modules >= {"machine", "describe"}
    assert modules.isdisjoint(package.__all__)


def test_every_public_name_is_there() -> None:
    assert all(callable(getattr(package, name)) for name in package.__all__)
    assert dir(package) == package.__all__
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name  # type: ignore[attr-defined]
