"""Importing is light, and imports point one way."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import cooptim_lab
from tests import support

PACKAGE = Path(cooptim_lab.__file__).parent
HEAVY = ("torch", "IPython", "mpi4py", "ipywidgets", "matplotlib", "numpy")
FACE = ("IPython", "ipywidgets", "anywidget", "cooptim_magics", "matplotlib")


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


# Who imports whom.


def imports(source: str, module: str, *, only_at_import: bool = False) -> set[str]:
    """Absolute names of the modules that a module's source imports.

    `only_at_import` leaves out what is inside a function or for type checkers only.
    """
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if only_at_import and (
            isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or is_for_types(node)
        ):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*module.split(".")[: -node.level], *filter(None, [node.module])])
            found.update(f"{base}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def engine() -> dict[str, str]:
    """Module name (a package's ends in __init__) -> source, of the whole engine."""
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path.read_text(encoding="utf-8")
        for path in PACKAGE.rglob("*.py")
    }


def offenders(who: str, forbidden: tuple[str, ...], *, only_at_import: bool = False) -> list[tuple[str, str]]:
    """(module, import) for every module of the engine under `who` that imports what it must not."""
    return [
        (module, name)
        for module, source in engine().items()
        if f"{module}.".startswith(f"{who}.")
        for name in imports(source, module, only_at_import=only_at_import)
        if any(f"{name}.".startswith(f"{each}.") for each in forbidden)
    ]


def test_the_engine_does_not_know_the_face():
    assert offenders("cooptim_lab", FACE, only_at_import=True) == []


def test_torch_is_imported_at_once_by_what_runs_on_ranks_only():
    found = {module.split(".")[1] for module, _ in offenders("cooptim_lab", ("torch",), only_at_import=True)}
    assert found == {"data", "training", "shards", "subnets", "costs", "programs"}


def test_mpi_is_imported_when_it_is_used_only():
    assert offenders("cooptim_lab", ("mpi4py",), only_at_import=True) == []


@pytest.mark.parametrize(
    ("who", "forbidden"),
    [
        ("errors", ("cooptim_lab",)),
        ("runs.events", ("cooptim_lab",)),
        ("runs", tuple(f"cooptim_lab.{name}" for name in ("training", "ranks", "task", "ways", "studies"))),
        ("task", tuple(f"cooptim_lab.{name}" for name in ("training", "ranks", "runs", "ways", "hardware"))),
        ("hardware", tuple(f"cooptim_lab.{name}" for name in ("training", "ranks", "runs", "ways", "task"))),
        ("studies.rows", tuple(f"cooptim_lab.{name}" for name in ("training", "ranks", "ways"))),
        ("training", tuple(f"cooptim_lab.{name}" for name in ("ranks", "runs.run", "runs.store", "ways", "studies"))),
        ("ranks", ("cooptim_lab.ways", "cooptim_lab.studies")),
        ("ranks.guard", ("cooptim_lab", "torch", "numpy", "mpi4py")),
        ("", FACE[:-1]),
    ],
)  # fmt: skip
def test_imports_point_one_way(who, forbidden):
    found = offenders(f"cooptim_lab.{who}".rstrip("."), forbidden)
    # The hook that hands over to the face is the one exception, and it imports by name.
    assert found == []


def test_there_is_no_circle():
    graph = {}
    known = engine()
    for module, source in known.items():
        targets = set()
        for name in imports(source, module, only_at_import=True):
            home = name.rpartition(".")[0]
            targets |= {name, home, f"{name}.__init__", f"{home}.__init__"} & known.keys()
        graph[module] = targets - {module}
    assert graph["cooptim_lab.ways"] >= {"cooptim_lab.ranks.pool", "cooptim_lab.training.spec"}
    list(TopologicalSorter(graph).static_order())
    with pytest.raises(CycleError):
        list(TopologicalSorter({**graph, "cooptim_lab.errors": {"cooptim_lab.ways"}}).static_order())


def test_the_reader_of_imports_sees_them():
    source = """
import torch.nn
from ..ranks import pool
from . import spec
if TYPE_CHECKING:
    import numpy
def late():
    from IPython import display
"""
    everything = {"torch.nn", "cooptim_lab.ranks.pool", "cooptim_lab.training.spec", "numpy", "IPython.display"}
    assert imports(source, "cooptim_lab.training.x") == everything
    assert imports(source, "cooptim_lab.training.x", only_at_import=True) == everything - {"numpy", "IPython.display"}
