"""The built wheel, in a clean environment: what a user gets, not what the checkout has.

The environment of the tests holds an editable install, whose path file shows the whole checkout (`tests` included).
Here the wheel goes into an environment of its own, which sees the dependencies and not the checkout.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

REPORT = """
import importlib.metadata, importlib.util, json, sys
import cooptim_lab, cooptim_magics
print(json.dumps({
    "homes": [cooptim_lab.__file__, cooptim_magics.__file__],
    "versions": [cooptim_lab.__version__, importlib.metadata.version("cooptim_lab")],
    "tests": importlib.util.find_spec("tests") is not None,
    "path": sys.path,
}))
"""

IMPORT_ALL = """
import importlib, pkgutil
import cooptim_lab, cooptim_magics
for package in (cooptim_lab, cooptim_magics):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
        print(module.name)
for name in cooptim_lab.__all__:
    getattr(cooptim_lab, name)
"""


@pytest.fixture(scope="module")
def built(root, tmp_path_factory) -> tuple[Path, Path]:
    """The sdist, and the wheel that was built from it."""
    out = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, root, cwd=out)
    (sdist,) = out.glob("*.tar.gz")
    (wheel,) = out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def names(built) -> set[str]:
    """The paths inside the wheel."""
    with zipfile.ZipFile(built[1]) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def clean(built, tmp_path_factory) -> Path:
    """The Python of an environment with the wheel and, by a path file, the dependencies."""
    home = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    _run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", built[1], cwd=home)
    # After the install: pip must not take the editable install of the tests for this one. A path file lends the
    # folder alone; the path files in it, the editable install's among them, are not read.
    (site,) = (home / "lib").glob("python*/site-packages")
    lent = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    (site / "dependencies.pth").write_text("\n".join(lent) + "\n")
    return python


def test_wheel_holds_the_two_packages_and_nothing_else(names):
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"cooptim_lab", "cooptim_magics"}
    assert not [name for name in names if "__pycache__" in name or ".ipynb_checkpoints" in name]


def test_wheel_holds_every_file_of_the_packages(root, files, names):
    sources = {"cooptim_lab": Path(), "magics": Path("magics")}
    expected = {
        path.relative_to(sources[path.parts[0]]).as_posix()
        for path in files
        if path.parts[0] in sources and len(path.parts) > 1
    }
    assert {"cooptim_magics/static/live.js", "cooptim_magics/static/live.css"} <= expected
    assert expected <= names


def test_wheel_carries_the_license(root, names, built):
    (inside,) = (name for name in names if name.endswith(".dist-info/licenses/LICENSE"))
    with zipfile.ZipFile(built[1]) as archive:
        assert archive.read(inside).decode() == (root / "LICENSE").read_text()


def test_installed_wheel_is_what_is_imported(clean, root, built, tmp_path):
    said = _run(clean, "-I", "-c", REPORT, cwd=tmp_path)
    report = json.loads(said.splitlines()[-1])
    home = clean.parents[1].resolve()
    assert [home in Path(file).resolve().parents for file in report["homes"]] == [True, True]
    assert str(root) not in report["path"]
    assert report["tests"] is False
    assert len({*report["versions"], built[1].name.split("-")[1]}) == 1


def test_every_module_of_the_installed_wheel_imports(clean, tmp_path):
    said = _run(clean, "-I", "-c", IMPORT_ALL, cwd=tmp_path)
    assert {"cooptim_lab.task", "cooptim_magics.chart"} <= set(said.split())


def test_the_check_can_fail(root, tmp_path):
    """From the checkout's own environment the same report names the checkout: the clean one is another thing."""
    said = _run(sys.executable, "-I", "-c", REPORT, cwd=tmp_path)
    report = json.loads(said.splitlines()[-1])
    assert str(root) in report["path"]
    assert report["tests"] is True


def _run(*command, cwd: Path) -> str:
    """Its stdout; what it said, where it fails."""
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
