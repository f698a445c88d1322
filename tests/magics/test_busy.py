"""A study whose every round was disturbed: nowhere that a reader looks is there a figure; and a way that refuses."""

from __future__ import annotations

import json

import pytest
from cooptim_magics.panel import LabPanel
from cooptim_magics.session import session

from cooptim_lab.runs import store
from cooptim_lab.runs.events import Note
from tests.support import wait_until

pytestmark = pytest.mark.mpi
BY_WHAT = "other programs had 97 % of the CPUs"
DERIVED = ("ratio", "speedup", "efficiency")


@pytest.fixture
def disturbed(ranks, tmp_path, monkeypatch):
    """The readings say so, whatever this machine is doing; the record is the test's own."""
    monkeypatch.setenv("COOPTIM_HOME", str(tmp_path))
    monkeypatch.setattr("cooptim_lab.studies.rounds.disturbed", lambda *seen: BY_WHAT)
    monkeypatch.setattr("cooptim_lab.studies.quiet.Surroundings.await_quiet", lambda self, tell: False)


def texts(outcome) -> str:
    """All that a cell has shown, as text."""
    shown = [each["data"].get("text/plain", "") + each["data"].get("text/html", "") for each in outcome.displayed]
    return "\n".join([outcome.stdout, *shown])


@pytest.mark.parametrize("command", ["compare --repeats 1", "compare --repeats 2", "speedup sharded --repeats 2"])
def test_no_headline_anywhere(notebook, disturbed, command):
    outcome = notebook.run(f"%cooptim {command} --epochs 1 -o run")
    run = notebook.names["run"]
    (table,) = outcome.tables
    assert table.count("busy: not measured") == len(run.result)
    assert table.count(f"⚠ busy: {BY_WHAT}") == 1
    assert ("range of 1/P" in table) == ("2" in command)
    again = [notebook.run(f"%cooptim {line}") for line in (f"show {run.id}", "runs")]
    for shown in (outcome, *again):
        assert "×" not in texts(shown)
        assert "busy: not measured" in texts(shown)
    assert all(row.is_busy and row.speedup is None for row in run.result)
    record = json.dumps(store.load(run.id).events[-1].summary)
    assert record.count('"is_busy": true') == len(run.result)
    assert all(record.count(f'"{name}": null') == len(run.result) for name in DERIVED)
    assert "so there is no P" in [event.text for event in run.log.since(0) if isinstance(event, Note)][-1]


def test_the_panel_says_it_too(notebook, disturbed):
    panel = LabPanel(session(notebook.shell))
    panel.open()
    panel.controls.way.value, panel.controls.epochs.value = "compare all three", 1
    panel.controls.run.click()
    assert wait_until(lambda: notebook.kept and not panel.controls.run.disabled)
    assert f"busy: {BY_WHAT}" in panel.message.value
    assert "busy: not measured" in panel.chart.status
    assert "×" not in panel.chart.status + panel.message.value + repr(panel.chart.table)


TASK = """%%cooptim task
import torch
from torch import nn
from sklearn.datasets import load_digits
class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.both, self.last = nn.Linear(64, 8), nn.Bilinear(8, 8, 8), nn.Linear(8, 10)
    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.last(torch.relu(self.both(x, x)))
model = Own
data = ((load_digits().data / 16).astype("float32"), load_digits().target)
"""


def test_a_way_that_refuses_the_network_leaves_the_others(notebook, ranks, tmp_path, monkeypatch):
    monkeypatch.setenv("COOPTIM_HOME", str(tmp_path))
    notebook.run(TASK)
    outcome = notebook.run("%cooptim compare --epochs 1 --repeats 2 -o run")
    (table,) = outcome.tables
    baseline, subnets, shards = notebook.names["run"].result
    assert (subnets.figure, subnets.seconds) == ("refused", None)
    assert baseline.speedup == 1
    assert shards.speedup is not None
    (why,) = subnets.warnings
    assert f"⚠ 4 sub-networks: {why}" in table
    assert "4 sub-networks refused" in texts(notebook.run("%cooptim runs"))
