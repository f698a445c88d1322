"""Whether two notebooks are the same lesson in two languages: the same cells, the same code but for a question's words."""

from __future__ import annotations

import re

import nbformat

from cooptim_lab.course.lessons import CLAIMS

QUESTION = re.compile(r'%cooptim predict "([^"]*)"')


def differences(one: nbformat.NotebookNode, other: nbformat.NotebookNode, lang: str, other_lang: str) -> list[str]:
    """What makes them two lessons, a line each; none where they are in step."""
    if len(one.cells) != len(other.cells):
        return [f"{len(one.cells)} cells and {len(other.cells)}"]
    found = []
    for number, (first, second) in enumerate(zip(one.cells, other.cells, strict=True), 1):
        if (first.id, first.cell_type) != (second.id, second.cell_type):
            found.append(f"cell {number}: {first.cell_type} {first.id} and {second.cell_type} {second.id}")
        elif first.cell_type == "code" and asked(first.source, lang) != asked(second.source, other_lang):
            found.append(f"cell {number}, {first.id}: another code")
        elif first.cell_type == "markdown" and outline(first.source) != outline(second.source):
            found.append(f"cell {number}, {first.id}: other headings, formulas or names in code")
    return found


def asked(source: str, lang: str) -> str:
    """The source with each question by its number; words that are no question of this language stay as they are."""
    ids = {getattr(claim.name, lang): claim.id for claim in CLAIMS.values()}
    return QUESTION.sub(lambda found: f"%cooptim predict {ids.get(found[1], found[0])}", source)


def outline(text: str) -> tuple[list[str], list[str], list[str]]:
    """What no translation changes: levels of headings, formulas, names in code, sorted."""
    headings = re.findall(r"^#+(?= )", text, re.MULTILINE)
    codes = re.findall(r"`([^`]+)`", text)
    formulas = re.findall(r"\$\$.*?\$\$|\$[^$]+\$", text, re.DOTALL)
    return headings, sorted(set(codes)), sorted(set(formulas))
