"""The notebook on machines that are not here, from top to bottom."""

from __future__ import annotations

import nbformat
import pytest

from tests import demo

NOTEBOOK = demo.ROOT / "notebooks" / "03_larger_machines.ipynb"


@pytest.mark.mpi
@pytest.mark.timeout(300)
def test_it_runs_and_says_what_was_published():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    demo.run(notebook, NOTEBOOK.parent)
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "measured           9220" in printed
    assert "the simulator" in printed
    shown = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.startswith("%cooptim")]
    assert len(shown) == 2
    for cell in shown:
        assert any("image/png" in output.data for output in cell.outputs if "data" in output), cell.source
    table = demo.last_table(notebook)
    assert table is not None
    assert "fastest" in table
