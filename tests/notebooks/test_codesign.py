"""The notebook on co-design, from top to bottom; its budgets made short, as what is found decides nothing here."""

from __future__ import annotations

import nbformat
import pytest

from tests import demo

NOTEBOOK = demo.ROOT / "notebooks" / "02_codesign.ipynb"
SHORTER = {
    "512": "64",  # whatever the machine, there must be time for all parts of a short budget
    "--measure --seconds 5": "--measure --seconds 0.5",
    "--budget 60 --epochs 15": "--budget 15 --epochs 3 --keep-accuracy 5% --levers threads,fused,batch,lr",
    "--epochs 10 --repeats 3": "--epochs 2 --repeats 1",
}


@pytest.mark.mpi
@pytest.mark.timeout(300)
def test_it_runs_and_every_figure_stays():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        for long, short in SHORTER.items():
            cell.source = cell.source.replace(long, short)
    demo.run(notebook, NOTEBOOK.parent)
    shown = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.startswith("%cooptim")]
    assert len(shown) == 6
    for cell in shown:
        kinds = [set(output.data) for output in cell.outputs if "data" in output]
        assert any("image/png" in kind for kind in kinds), cell.source
        assert not any("application/vnd.jupyter.widget-view+json" in kind for kind in kinds), cell.source
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = [output.data["text/plain"] for output in outputs if "data" in output]
    (proof,) = [text for text in texts if "P to the goal" in text and "as it is" in text]
    assert "the goal is accuracy" in proof
    printed = "".join(output.get("text", "") for output in outputs)
    assert "one epoch of my own loop: loss" in printed
    table = demo.last_table(notebook)
    assert table is not None
