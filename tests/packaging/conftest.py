"""What the packaging tests read: the project's own files, as a fresh clone would have them."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.!]+)")


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def files() -> list[Path]:
    """The project's files relative to its root: tracked, or new and not ignored."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [Path(name) for name in listing.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="session")
def project() -> dict:
    """The [project] table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="session")
def runtime(project) -> dict[str, Requirement]:
    """What an install asks for, by canonical name."""
    return _by_name(project["dependencies"])


@pytest.fixture(scope="session")
def extras(project) -> dict[str, Requirement]:
    """What the extras ask for beside that, by canonical name."""
    return _by_name(line for lines in project["optional-dependencies"].values() for line in lines)


@pytest.fixture(scope="session")
def pins() -> dict[str, str]:
    """constraints.txt: canonical name -> version. A line that is not an exact pin is an error."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    found = {}
    for line in filter(None, lines):
        pin = PIN.fullmatch(line)
        assert pin, f"constraints.txt: not an exact pin: {line}"
        name = canonicalize_name(pin["name"])
        assert name not in found, f"constraints.txt: {name} is pinned twice"
        found[name] = pin["version"]
    return found


def _by_name(lines) -> dict[str, Requirement]:
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}
