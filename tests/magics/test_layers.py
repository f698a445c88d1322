"""Who imports whom in the face: one way, no circle, late imports and imports for types counted too."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import cooptim_magics
import pytest

from tests.unit.test_import import imports

FACE = Path(cooptim_magics.__file__).parent
FAMILIES = {path.stem for path in (FACE / "commands").glob("*.py")} - {"__init__"}


def graph() -> dict[str, set[str]]:
    """Module -> the modules of the face that it imports, wherever in it; a package goes by its own name."""
    sources = {
        ".".join(path.relative_to(FACE.parent).with_suffix("").parts): path.read_text(encoding="utf-8")
        for path in FACE.rglob("*.py")
    }
    names = {module.removesuffix(".__init__") for module in sources}
    found = {}
    for module, source in sources.items():
        imported = imports(source, module)
        # `from .chart import LiveChart` is chart; `from . import grammar` is grammar, not the package that both are in.
        targets = {name if name in names else name.rpartition(".")[0] for name in imported}
        found[module.removesuffix(".__init__")] = targets & names
    return found


def test_there_is_no_circle():
    known = graph()
    assert known["cooptim_magics.view"] >= {"cooptim_magics.chart", "cooptim_magics.picture"}
    assert known["cooptim_magics"] >= {"cooptim_magics.dispatch"}, "late imports count"
    list(TopologicalSorter(known).static_order())
    with pytest.raises(CycleError):
        list(TopologicalSorter({**known, "cooptim_magics.tables": {"cooptim_magics.picture"}}).static_order())


def test_families_of_commands_do_not_know_each_other():
    assert {"training", "records"} <= FAMILIES
    known = graph()
    families = {f"cooptim_magics.commands.{name}" for name in FAMILIES}
    assert families == known["cooptim_magics.commands"] - {"cooptim_magics.grammar"}, "each is listed"
    assert {name: known[name] & families for name in families} == {name: set() for name in families}


def test_the_grammar_knows_no_command_and_no_notebook():
    assert graph()["cooptim_magics.grammar"] == set()
