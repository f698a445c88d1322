"""Binder's environment: the same versions as everywhere, from conda-forge, and no CUDA."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

PYPI_NAME = {"pytorch-cpu": "torch", "matplotlib-base": "matplotlib"}  # where conda-forge's name is another
NOT_OURS = {"python", "pip"}
CONDA_PIN = re.compile(r"(?P<name>[a-z0-9._-]+)(?:==?(?P<version>[A-Za-z0-9.]+))?")


@pytest.fixture(scope="module")
def environment(root) -> dict:
    return yaml.safe_load((root / "binder" / "environment.yml").read_text())


@pytest.fixture(scope="module")
def conda(environment) -> dict[str, str | None]:
    """Name on PyPI -> version, of what conda installs, and of what pip adds."""
    found = {}
    by_pip = [line for part in environment["dependencies"] if isinstance(part, dict) for line in part["pip"]]
    for line in [*environment["dependencies"], *by_pip]:
        if isinstance(line, str):
            pin = CONDA_PIN.fullmatch(line)
            assert pin, f"environment.yml: neither a name nor an exact version: {line}"
            found[canonicalize_name(PYPI_NAME.get(pin["name"], pin["name"]))] = pin["version"]
    return found


def test_versions_are_those_of_the_constraints(conda, pins):
    ours = {name: version for name, version in conda.items() if name not in NOT_OURS}
    assert ours == {name: pins.get(name) for name in ours}


def test_every_runtime_dependency_is_there_within_its_range(conda, runtime):
    for name, requirement in runtime.items():
        assert name in conda, f"environment.yml lacks {requirement}"
        assert requirement.specifier.contains(conda[name]), f"{requirement} excludes {conda[name]}"


def test_python_is_pinned_within_its_range(conda, project):
    assert conda["python"], "environment.yml must pin Python: with binder/ there, pyproject.toml does not choose it"
    assert SpecifierSet(project["requires-python"]).contains(conda["python"])


def test_channel_by_name_and_torch_from_nowhere_else(environment):
    assert environment["channels"] == ["conda-forge"]
    by_pip = [line for part in environment["dependencies"] if isinstance(part, dict) for line in part["pip"]]
    assert not [line for line in by_pip if re.match(r"(torch|mpi4py|mpich)\s*([=<>~!]|$)", line)]


def test_post_build_leaves_the_dependencies_to_conda(root):
    script = root / "binder" / "postBuild"
    assert os.access(script, os.X_OK)
    installs = [line for line in script.read_text().splitlines() if "pip install" in line and not line.startswith("#")]
    assert installs
    assert all("--no-deps" in line for line in installs)


def test_repo2docker_takes_it(root, files, tmp_path):
    """It reads binder/ as Binder will, and builds nothing (which would need Docker)."""
    for path in files:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / path, tmp_path / path)
    said = subprocess.run(
        [sys.executable, "-m", "repo2docker", "--no-build", "--debug", "."],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert said.returncode == 0, said.stdout
    assert "Building conda environment for python=3.11" in said.stdout
    assert '--file "binder/environment.yml"' in said.stdout
    assert "binder/postBuild" in said.stdout
