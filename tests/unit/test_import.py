"""Importing is light."""

from __future__ import annotations

import pytest

import cooptim_lab
from tests import support

HEAVY = ("torch", "IPython", "mpi4py", "ipywidgets", "matplotlib", "numpy")


def loaded(statement: str, names: tuple[str, ...]) -> list[str]:
    """Which of `names` a fresh interpreter has loaded after `statement`."""
    done = support.run_python(f"{statement}\nimport sys\nprint(*(n for n in {names!r} if n in sys.modules))")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_import_loads_nothing_heavy():
    assert loaded("import cooptim_lab", HEAVY) == []


def test_looking_at_the_public_names_loads_nothing_heavy():
    assert loaded("import cooptim_lab; dir(cooptim_lab); cooptim_lab.Task; cooptim_lab.digits()", HEAVY) == []


def test_the_kernels_side_loads_neither_torch_nor_mpi4py():
    assert loaded("import cooptim_lab.ways, cooptim_lab.ranks.pool", ("torch", "mpi4py", "IPython", "matplotlib")) == []


@pytest.mark.parametrize("name", HEAVY)
def test_the_three_above_can_fail(name):
    assert name in loaded(f"import cooptim_lab, {name}", HEAVY)


def test_every_public_name_is_there():
    for name in cooptim_lab.__all__:
        getattr(cooptim_lab, name)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = cooptim_lab.no_such_name
