"""The first example of README, run as printed, in a fresh kernel."""

from __future__ import annotations

import re

import nbformat
import pytest

from tests import demo

README = demo.ROOT / "README.md"


def example_cells() -> list[str]:
    """The cells of the section "Six lines", each a fenced block."""
    section = re.search(r"^## Six lines\n(.*?)^## ", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return re.findall(r"^```python\n(.*?)\n```$", section[1], re.DOTALL | re.MULTILINE)


@pytest.mark.mpi
@pytest.mark.timeout(300)
def test_the_six_line_example_runs_as_printed(tmp_path):
    cells = example_cells()
    assert sum(len(cell.splitlines()) for cell in cells[1:-1]) == 6 + 1  # six lines under the magic's own
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    demo.run(notebook, tmp_path)
    table = demo.last_table(notebook)
    assert table is not None
    assert "as it is" in table
    assert len(re.findall(r"\d %.*\d$", table, re.MULTILINE)) == 3  # rows end in parameters, remarks in words


def test_the_picture_of_readme_is_there():
    for target in re.findall(r"!\[[^\]]*\]\((?!https?:)([^)]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).is_file(), target
