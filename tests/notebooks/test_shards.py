"""The notebook on shards, from top to bottom."""

from __future__ import annotations

import nbformat
import pytest

from tests import demo

NOTEBOOK = demo.ROOT / "notebooks" / "01_shards.ipynb"


@pytest.mark.mpi
@pytest.mark.timeout(300)
def test_it_runs_and_every_figure_stays():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    demo.run(notebook, NOTEBOOK.parent)
    shown = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.startswith("%cooptim")]
    assert len(shown) >= 8
    for cell in shown:
        kinds = [set(output.data) for output in cell.outputs if "data" in output]
        assert any("image/png" in kind for kind in kinds), cell.source
        assert not any("application/vnd.jupyter.widget-view+json" in kind for kind in kinds), cell.source
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "the same, bit for bit" in printed
    table = demo.last_table(notebook)
    assert table is not None
    assert "communicating" in table
