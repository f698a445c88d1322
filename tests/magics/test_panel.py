"""The lab panel as plain objects: sliders are set as a page sets them, buttons are clicked, the figure is left."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from cooptim_magics.panel import MOST_EPOCHS, MOST_SUBNETS, LabPanel, answer_on_own_subshell
from cooptim_magics.session import session

from cooptim_lab import Task
from tests.support import PATIENCE_SECONDS, wait_until


@pytest.fixture
def panel(notebook, ranks):
    """Opened, as by `%cooptim lab`; what it runs is stopped after the test."""
    made = LabPanel(session(notebook.shell))
    made.open()
    made.workers.value = 1  # where two are not the subject: quicker on a busy machine
    yield made
    run = current(made)
    if run is not None:
        run.stop()
        assert run.join(PATIENCE_SECONDS)
        assert wait_until(lambda: not made.run_button.disabled)


def current(panel: LabPanel):
    """Its newest run."""
    return next(reversed(panel._session.runs.values()), None)


def finished(panel: LabPanel):
    """Waits for the run and for what the panel makes of it."""
    run = current(panel)
    assert run.join(PATIENCE_SECONDS)
    assert wait_until(lambda: not panel.run_button.disabled)
    return run


class TestControls:
    def test_what_is_shown(self, notebook, panel):
        widget, place, table = notebook.kept
        assert "application/vnd.jupyter.widget-view+json" in widget["data"]
        assert place["data"] == table["data"] == {"text/plain": ""}
        assert place["transient"]["display_id"] != table["transient"]["display_id"]

    def test_by_the_magic(self, notebook):
        first, *_ = notebook.run("%cooptim lab").displayed
        assert "application/vnd.jupyter.widget-view+json" in first["data"]

    def test_at_first(self, panel):
        assert panel.way.value == "sub-networks"
        assert not panel.run_button.disabled
        assert panel.stop_button.disabled
        assert (panel.subnets.max, panel.epochs.max) == (MOST_SUBNETS, MOST_EPOCHS)
        assert min(panel.workers.min, panel.subnets.min, panel.epochs.min) == 1

    @pytest.mark.parametrize(
        ("way", "workers", "subnets"),
        [
            ("as it is", False, False),
            ("sub-networks", True, True),
            ("sharded, central server", True, False),
            ("compare all three", True, True),
        ],
    )
    def test_controls_that_a_way_has_not_are_off(self, panel, way, workers, subnets):
        panel.way.value = way
        assert (not panel.workers.disabled, not panel.subnets.disabled) == (workers, subnets)

    def test_more_workers_than_cpus_are_warned_of(self, panel):
        panel.workers.set_state({"value": panel.workers.max})
        if panel.workers.max > 2:
            assert panel.message.value.startswith(f"{panel.workers.max} workers share ")
        panel.workers.set_state({"value": 1})
        assert panel.message.value == ""

    def test_stop_without_a_run_does_nothing(self, panel):
        panel.stop_button.click()
        assert current(panel) is None


@pytest.mark.mpi
class TestRun:
    def test_runs_what_the_sliders_say(self, panel):
        panel.subnets.set_state({"value": 2})
        panel.workers.set_state({"value": 2})
        panel.epochs.set_state({"value": 3})
        panel.run_button.click()
        run = finished(panel)
        assert run.state == "done"
        assert {name: run.options[name] for name in ("subnets", "workers", "epochs")} == {
            "subnets": 2,
            "workers": 2,
            "epochs": 3,
        }
        assert panel.message.value == f"run {run.id}: done"

    @pytest.mark.parametrize(("way", "kind"), [("as it is", "baseline"), ("sharded, central server", "sharded")])
    def test_the_other_ways(self, panel, way, kind):
        panel.way.value = way
        panel.epochs.value = 1
        panel.run_button.click()
        assert finished(panel).result.way == kind

    def test_the_current_task(self, notebook, panel):
        notebook.run(
            "%%cooptim task\ndef model():\n    from torch import nn\n    return nn.Linear(2, 2)\n"
            "data = ([[0.0, 1.0], [1.0, 0.0]] * 20, [0, 1] * 20)"
        )
        panel.way.value, panel.epochs.value = "as it is", 1
        panel.run_button.click()
        assert finished(panel).result.task == "your task"

    def test_the_figure_is_left_in_its_place(self, notebook, panel):
        place = notebook.kept[1]["transient"]
        panel.way.value, panel.epochs.value = "as it is", 2
        panel.run_button.click()
        run = finished(panel)
        going_on, figure = (each["data"] for each in notebook.kept if each["update"] and each["transient"] == place)
        assert f"%cooptim show {run.id}" in going_on["text/plain"]
        assert "image/png" in figure
        assert figure["text/plain"].startswith(f"{run.title}: ")

    def test_curves_grow_and_stop_ends_it(self, panel):
        panel.epochs.set_state({"value": MOST_EPOCHS})
        panel.epochs.max = 10_000_000
        panel.epochs.value = 10_000_000
        panel.run_button.click()
        assert panel.run_button.disabled
        assert not panel.stop_button.disabled
        assert wait_until(lambda: panel.chart.curves and panel.chart.state == "running")
        first = len(panel.chart.points)
        assert wait_until(lambda: len(panel.chart.points) > first)
        panel.stop_button.click()
        run = finished(panel)
        assert run.state == "stopped"
        assert run.result.network is not None, "what was trained is lost"
        assert panel.stop_button.disabled
        assert panel.message.value == f"run {run.id}: stopped"

    def test_one_run_at_a_time(self, panel):
        panel.epochs.max = panel.epochs.value = 10_000_000
        panel.run_button.click()
        first = current(panel)
        panel.run_button.click()
        assert current(panel) is first
        panel.stop_button.click()
        assert finished(panel).state == "stopped"
        panel.epochs.value = 1
        panel.run_button.click()
        assert finished(panel) is not first

    def test_a_run_that_cannot_be_is_said_in_its_own_line(self, panel):
        panel.subnets.value, panel.workers.value, panel.epochs.value = 1, 2, 1
        panel.run_button.click()
        assert wait_until(lambda: panel.message.value)
        assert "workers" in panel.message.value
        assert "\n" not in panel.message.value

    def test_what_it_says_is_no_markup(self, notebook, panel):
        """The status line is HTML; an error's text comes from the user's own code."""
        notebook.run("def model():\n    raise ValueError('<b>bold</b>')")
        data = ([[0.0, 1.0], [1.0, 0.0]] * 20, [0, 1] * 20)
        session(notebook.shell).task = Task(model=notebook.names["model"], data=data)
        panel.way.value, panel.epochs.value = "as it is", 1
        panel.run_button.click()
        run = finished(panel)
        assert "<b>bold</b>" in str(run.error)
        assert "<b>" not in panel.message.value
        assert "bold" in panel.message.value

    def test_its_runs_are_the_notebooks(self, notebook, panel):
        panel.epochs.max = panel.epochs.value = 10_000_000
        panel.run_button.click()
        assert notebook.run("%cooptim stop").stdout.startswith(f"run {current(panel).id}: ")
        assert finished(panel).state == "stopped"


class TestOwnSubshell:
    def test_sets_the_route_where_there_is_one(self):
        comm = SimpleNamespace(_reply_subshell_for=lambda data, default: "the shell that wrote last")
        answer_on_own_subshell(SimpleNamespace(comm=comm))
        assert comm._reply_subshell_for({"method": "custom"}, "the page's own") == "the page's own"
        assert comm._reply_subshell_for({}, None) is None

    def test_adds_nothing_elsewhere(self):
        comm = SimpleNamespace()
        answer_on_own_subshell(SimpleNamespace(comm=comm))
        assert vars(comm) == {}
