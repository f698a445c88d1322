"""Who knows whom in the face; that nobody stands in a circle is held by `tests/unit/test_floors.py`."""

from __future__ import annotations

from tests.unit.test_floors import EVERY, FACE, imports

FAMILIES = {module for module in EVERY if module.startswith(f"{FACE}.commands.")}


def known(module: str) -> set[str]:
    """The modules of the face that one of them imports, wherever in it."""
    return {name for name in imports(f"{FACE}.{module}" if module else FACE, EVERY) if name.startswith(FACE)}


def test_late_imports_count():
    assert f"{FACE}.dispatch" in known("")


def test_families_of_commands_do_not_know_each_other():
    assert known("commands") - {f"{FACE}.grammar"} == FAMILIES, "each is listed"
    short = {family.removeprefix(f"{FACE}.") for family in FAMILIES}
    assert {name: known(name) & FAMILIES for name in short} == {name: set() for name in short}


def test_the_grammar_knows_no_command_and_no_notebook():
    assert known("grammar") == set()
