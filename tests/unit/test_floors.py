"""Imports point one way: down the floors that README's map declares.

Read by `ast`: nothing is imported here to find out.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGINE, FACE = "cooptim_lab", "cooptim_magics"
NOTEBOOK = ("IPython", "ipywidgets", "anywidget", "matplotlib", FACE)
HEAVY = ("torch", "mpi4py")
KERNEL = ("ways", "calculate", "resuming", "studies", "codesign")
"""Rooms that the notebook's process imports, beside the face; what they stand on, it imports too."""

Sources = dict[str, str]
"""Of modules, by name; a package's is that of its `__init__`."""


def sources() -> Sources:
    """Of the engine and the face."""
    found = {}
    for package, folder in ((ENGINE, ROOT), (FACE, ROOT / "magics")):
        for path in (folder / package).rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def floors(readme: str) -> list[str]:
    """The rooms of the engine, from the ground up, as README's map has them."""
    (block,) = re.findall(r"^```floors\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    return [room for line in block.splitlines() for room in re.split(r" {2,}", line)[0].split(" · ")]


def imports(module: str, every: Sources, *, at_once: bool = False) -> set[str]:
    """What a module imports: modules of ours by their full names, of others the package.

    `at_once` leaves out what is inside a function, or for type checkers only.
    """
    found: set[str] = set()
    is_package = any(name.startswith(f"{module}.") for name in every)

    def add(name: str) -> None:
        while name not in every and "." in name:
            name = name.rpartition(".")[0]
        found.add(name if name in every else name.partition(".")[0])

    def visit(node: ast.AST) -> None:
        if at_once and (isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or is_for_types(node)):
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                add(alias.name)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                add(f"{base}.{alias.name}")
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(every[module]))
    return found - {module}


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def room(module: str) -> str:
    """The floor that a module of the engine belongs to."""
    return module.removeprefix(f"{ENGINE}.").partition(".")[0]


def arrows_upwards(every: Sources, rooms: list[str]) -> list[tuple[str, str]]:
    """(module, what it imports) where that stands above."""
    return [
        (module, name)
        for module in every
        if module.startswith(f"{ENGINE}.")
        for name in imports(module, every)
        if name.startswith(f"{ENGINE}.") and rooms.index(room(name)) > rooms.index(room(module))
    ]


def circle(every: Sources) -> tuple[str, ...]:
    """Modules that import each other in a circle, by imports of any kind; empty where there is none."""
    # The engine's own door imports its public names late, by name; nothing inside may come back through it.
    graph = {module: imports(module, every) & every.keys() for module in every if module != ENGINE}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return tuple(error.args[1])
    return ()


def loaded_by(modules: Iterable[str], every: Sources) -> set[str]:
    """All modules of ours that importing these loads."""
    seen: set[str] = set()
    waiting = list(modules)
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            packages = {".".join(module.split(".")[:n]) for n in range(1, module.count(".") + 1)}
            waiting += (imports(module, every, at_once=True) | packages) & every.keys()
    return seen


def offenders(modules: Iterable[str], forbidden: tuple[str, ...], every: Sources) -> list[tuple[str, str]]:
    """(module, what it imports at once and must not)."""
    return [(module, name) for module in modules for name in imports(module, every, at_once=True) if name in forbidden]


def kernels_half(every: Sources) -> set[str]:
    """What the notebook's process loads."""
    tops = [m for m in every if m.startswith(FACE) or room(m) in KERNEL]
    return loaded_by(tops, every)


EVERY = sources()
ROOMS = floors((ROOT / "README.md").read_text(encoding="utf-8"))


def with_line(module: str, line: str) -> Sources:
    """The sources, one of them importing more."""
    return {**EVERY, module: f"{EVERY[module]}\n{line}\n"}


def test_the_map_has_every_room_once():
    assert sorted(ROOMS) == sorted({room(module) for module in EVERY if module.startswith(f"{ENGINE}.")})


def test_no_arrow_points_upwards():
    assert arrows_upwards(EVERY, ROOMS) == []


@pytest.mark.parametrize("line", ["from ..shards import deal", "def late():\n    from ..ways import launch"])
def test_an_arrow_upwards_would_be_seen(line):
    module = f"{ENGINE}.subnets.program" if "shards" not in line else f"{ENGINE}.training.loop"
    assert arrows_upwards(with_line(module, line), ROOMS) != []


def test_there_is_no_circle():
    assert circle(EVERY) == ()


@pytest.mark.parametrize("line", ["from .pool import RankPool", "if TYPE_CHECKING:\n    from .pool import RankPool"])
def test_a_circle_would_be_seen(line):
    assert f"{ENGINE}.ranks.pool" in circle(with_line(f"{ENGINE}.ranks.wire", line))


def test_the_engine_does_not_know_the_notebook():
    engine = [module for module in EVERY if module.startswith(ENGINE)]
    assert offenders(engine, NOTEBOOK, EVERY) == []
    module = f"{ENGINE}.runs.run"
    assert offenders([module], NOTEBOOK, with_line(module, "import IPython.display")) == [(module, "IPython")]


def test_the_notebooks_process_loads_neither_torch_nor_mpi4py():
    assert offenders(kernels_half(EVERY), HEAVY, EVERY) == []
    broken = with_line(f"{ENGINE}.ways", "from .training import loop")
    assert (f"{ENGINE}.training.loop", "torch") in offenders(kernels_half(broken), HEAVY, broken)


def test_mpi_is_imported_when_it_is_used_only():
    assert offenders(EVERY, ("mpi4py",), EVERY) == []


@pytest.mark.parametrize("module", ["errors", "runs.events"])
def test_what_all_may_use_uses_nothing(module):
    assert imports(f"{ENGINE}.{module}", EVERY) & EVERY.keys() == set()


def test_the_guard_is_light():
    for module, needs in {"guard": {f"{ENGINE}.ranks.traces"}, "traces": set()}.items():
        assert imports(f"{ENGINE}.ranks.{module}", EVERY) & {*EVERY, *HEAVY, "numpy"} == needs


class TestTheReader:
    SOURCE = "import torch.nn\nfrom ..ranks import pool\nfrom . import spec\nif TYPE_CHECKING:\n    import numpy\n"
    LATE = "def late():\n    from IPython import display\n"
    OURS: Mapping[str, str] = {f"{ENGINE}.ranks.pool": "", f"{ENGINE}.training.spec": "", f"{ENGINE}.training.x": ""}

    def test_sees_every_import(self):
        every = {**self.OURS, f"{ENGINE}.training.x": self.SOURCE + self.LATE}
        at_once = {"torch", f"{ENGINE}.ranks.pool", f"{ENGINE}.training.spec"}
        assert imports(f"{ENGINE}.training.x", every) == {*at_once, "numpy", "IPython"}
        assert imports(f"{ENGINE}.training.x", every, at_once=True) == at_once

    def test_knows_a_package_from_a_module(self):
        every = {"p": "", "p.a": "from .b import name", "p.b": "from . import c", "p.b.c": "", "p.c": ""}
        assert imports("p.a", every) == {"p.b"}
        assert imports("p.b", every) == {"p.b.c"}

    def test_reads_the_map(self):
        assert floors("x\n```floors\na · b   two rooms\nc   one\n```\ny") == ["a", "b", "c"]


def test_no_name_of_a_module_is_that_of_a_public_function():
    """An imported submodule would take the function's place in the package."""
    public = re.findall(r'^    "(\w+)": "[\w.]+",$', EVERY[ENGINE], re.MULTILINE)
    assert public
    assert {name for name in public if f"{ENGINE}.{name}" in EVERY} == set()
