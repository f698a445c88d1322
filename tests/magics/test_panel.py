"""The lab panel as plain objects: sliders are set as a page sets them, buttons are clicked, the figure is left."""

from __future__ import annotations

from html import unescape
from types import SimpleNamespace

import pytest
from cooptim_magics.asking import WAYS, Asked, up_to
from cooptim_magics.commands import COMMANDS
from cooptim_magics.controls import MOST_EPOCHS, MOST_SUBNETS, answer_on_own_subshell
from cooptim_magics.grammar import parse, spec_options
from cooptim_magics.panel import LabPanel
from cooptim_magics.session import session

from cooptim_lab import Task
from cooptim_lab.levers import Plan
from tests.support import PATIENCE_SECONDS, wait_until


@pytest.fixture
def panel(notebook, ranks):
    """Opened, as by `%cooptim lab`; what it runs is stopped after the test."""
    made = LabPanel(session(notebook.shell))
    made.open()
    made.controls.workers.value = 1  # where two are not the subject: quicker on a busy machine
    yield made
    run = current(made)
    if run is not None:
        run.stop()
        assert run.join(PATIENCE_SECONDS)
        assert wait_until(lambda: not made.controls.run.disabled)


def current(panel: LabPanel):
    """Its newest run."""
    return next(reversed(panel._session.runs.values()), None)


def finished(panel: LabPanel):
    """Waits for the run and for what the panel makes of it."""
    run = current(panel)
    assert run.join(PATIENCE_SECONDS)
    assert wait_until(lambda: not panel.controls.run.disabled)
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
        assert panel.controls.way.value == "sub-networks"
        assert not panel.controls.run.disabled
        assert panel.controls.stop.disabled
        assert (panel.controls.subnets.max, panel.controls.epochs.max) == (MOST_SUBNETS, MOST_EPOCHS)
        assert min(panel.controls.workers.min, panel.controls.subnets.min, panel.controls.epochs.min) == 1

    @pytest.mark.parametrize(
        ("way", "workers", "subnets"),
        [
            ("as it is", False, False),
            ("sub-networks", True, True),
            ("sharded, central server", True, False),
            ("co-designed", False, False),
            ("compare all three", True, True),
            ("speedup of shards", True, False),
        ],
    )
    def test_controls_that_a_way_has_not_are_off(self, panel, way, workers, subnets):
        panel.controls.way.value = way
        assert (not panel.controls.workers.disabled, not panel.controls.subnets.disabled) == (workers, subnets)

    def test_more_workers_than_cpus_are_warned_of(self, panel):
        panel.controls.workers.set_state({"value": panel.controls.workers.max})
        if panel.controls.workers.max > 2:
            assert panel.message.value.startswith(f"{panel.controls.workers.max} workers share ")
        panel.controls.workers.set_state({"value": 1})
        assert panel.message.value == ""

    def test_stop_without_a_run_does_nothing(self, panel):
        panel.controls.stop.click()
        assert current(panel) is None


@pytest.mark.mpi
class TestRun:
    def test_runs_what_the_sliders_say(self, panel):
        panel.controls.subnets.set_state({"value": 2})
        panel.controls.workers.set_state({"value": 2})
        panel.controls.epochs.set_state({"value": 3})
        panel.controls.run.click()
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
        panel.controls.way.value = way
        panel.controls.epochs.value = 1
        panel.controls.run.click()
        assert finished(panel).result.way == kind

    def test_the_current_task(self, notebook, panel):
        notebook.run(
            "%%cooptim task\ndef model():\n    from torch import nn\n    return nn.Linear(2, 2)\n"
            "data = ([[0.0, 1.0], [1.0, 0.0]] * 20, [0, 1] * 20)"
        )
        panel.controls.way.value, panel.controls.epochs.value = "as it is", 1
        panel.controls.run.click()
        assert finished(panel).result.task == "your task"

    def test_the_figure_is_left_in_its_place(self, notebook, panel):
        place = notebook.kept[1]["transient"]
        panel.controls.way.value, panel.controls.epochs.value = "as it is", 2
        panel.controls.run.click()
        run = finished(panel)
        going_on, figure = (each["data"] for each in notebook.kept if each["update"] and each["transient"] == place)
        assert f"%cooptim show {run.id}" in going_on["text/plain"]
        assert "image/png" in figure
        assert figure["text/plain"].startswith(f"{run.title}: ")

    def test_curves_grow_and_stop_ends_it(self, panel):
        panel.controls.epochs.set_state({"value": MOST_EPOCHS})
        panel.controls.epochs.max = 10_000_000
        panel.controls.epochs.value = 10_000_000
        panel.controls.run.click()
        assert panel.controls.run.disabled
        assert not panel.controls.stop.disabled
        assert wait_until(lambda: panel.chart.curves and panel.chart.state == "running")
        first = len(panel.chart.points)
        assert wait_until(lambda: len(panel.chart.points) > first)
        panel.controls.stop.click()
        run = finished(panel)
        assert run.state == "stopped"
        assert run.result.network is not None, "what was trained is lost"
        assert panel.controls.stop.disabled
        assert panel.message.value == f"run {run.id}: stopped"

    def test_one_run_at_a_time(self, panel):
        panel.controls.epochs.max = panel.controls.epochs.value = 10_000_000
        panel.controls.run.click()
        first = current(panel)
        panel.controls.run.click()
        assert current(panel) is first
        panel.controls.stop.click()
        assert finished(panel).state == "stopped"
        panel.controls.epochs.value = 1
        panel.controls.run.click()
        assert finished(panel) is not first

    def test_a_run_that_cannot_be_is_said_in_its_own_line(self, panel):
        panel.controls.subnets.value, panel.controls.workers.value, panel.controls.epochs.value = 1, 2, 1
        panel.controls.run.click()
        assert wait_until(lambda: panel.message.value)
        assert "workers" in panel.message.value
        assert "\n" not in panel.message.value

    def test_what_it_says_is_no_markup(self, notebook, panel):
        """The status line is HTML; an error's text comes from the user's own code."""
        notebook.run("def model():\n    raise ValueError('<b>bold</b>')")
        data = ([[0.0, 1.0], [1.0, 0.0]] * 20, [0, 1] * 20)
        session(notebook.shell).task = Task(model=notebook.names["model"], data=data)
        panel.controls.way.value, panel.controls.epochs.value = "as it is", 1
        panel.controls.run.click()
        run = finished(panel)
        assert "<b>bold</b>" in str(run.error)
        assert "<b>" not in panel.message.value
        assert "bold" in panel.message.value

    def test_its_runs_are_the_notebooks(self, notebook, panel):
        panel.controls.epochs.max = panel.controls.epochs.value = 10_000_000
        panel.controls.run.click()
        assert notebook.run("%cooptim stop").stdout.startswith(f"run {current(panel).id}: ")
        assert finished(panel).state == "stopped"


@pytest.mark.mpi
class TestEarlierRuns:
    def test_one_is_shown_as_it_was_and_several_together(self, panel):
        runs = []
        for way, epochs in (("as it is", 2), ("sharded, central server", 3)):
            panel.controls.way.value, panel.controls.epochs.value = way, epochs
            panel.controls.run.click()
            runs.append(finished(panel))
        assert [id for _, id in panel.earlier.options] == [runs[1].id, runs[0].id]
        panel.earlier.value = (runs[0].id,)
        assert panel.chart.title == runs[0].title
        panel.earlier.value = tuple(run.id for run in runs)
        assert panel.chart.title == "2 runs"
        ids = {run.id for run in runs}
        assert {curve["name"] for curve in panel.chart.curves} == {f"{id} · held-out loss" for id in ids}
        assert {line[0] for line in panel.chart.table[1:]} == ids

    def test_a_fresh_panel_goes_on_with_the_run_of_a_lost_one(self, notebook, panel):
        panel.controls.epochs.max = panel.controls.epochs.value = 10_000_000
        panel.controls.run.click()
        other = LabPanel(session(notebook.shell))
        other.open()
        assert other.controls.run.disabled and not other.controls.stop.disabled
        assert wait_until(lambda: other.chart.state == "running" and other.chart.curves)
        other.controls.stop.click()
        assert finished(panel).state == "stopped"
        assert wait_until(lambda: not other.controls.run.disabled)
        other.close()


class TestTask:
    def test_it_says_which_task_it_trains_and_notices_another(self, notebook, panel):
        assert panel.task.value == "trains <b>digits</b>"
        session(notebook.shell).task = Task(model=lambda: None, data=([[0.0], [1.0]], [0, 1]), name="<mine>")
        assert wait_until(lambda: panel.task.value == "trains <b>&lt;mine&gt;</b>")


class TestAsACell:
    @pytest.mark.parametrize("way", WAYS)
    def test_the_line_says_what_the_button_does(self, panel, way):
        panel.controls.way.value = way
        panel.controls.workers.value, panel.controls.subnets.value, panel.controls.epochs.value = 2, 6, 7
        panel.controls.more["batch"].value = 32
        panel.controls.more["aggregate"].value = "ordered"
        asked = panel.asked
        words = asked.line.removeprefix("%cooptim ").split()
        arguments = parse(COMMANDS[words[0]], words[1:])
        assert asked.way.spec(**asked.given) == asked.way.spec(**spec_options(arguments))
        assert asked.line in unescape(panel.controls.line.value)

    def test_what_is_so_anyway_is_not_written(self, panel):
        for way, line in (
            ("as it is", "train"),
            ("compare all three", "compare"),
            ("speedup of shards", "speedup sharded"),
        ):
            panel.controls.way.value = way
            assert panel.asked.line.startswith(f"%cooptim {line}") and "--repeats" not in panel.asked.line
        panel.controls.way.value = "as it is"
        assert panel.asked.line == "%cooptim train"

    def test_co_designed_is_the_plan_that_was_found(self, panel):
        values = panel.controls.values
        assert Asked.of("co-designed", values).line == "%cooptim tune"
        plan = Plan.read("batch=256,lr=4,fused")
        assert Asked.of("co-designed", values, plan).line == "%cooptim train --plan batch=256,lr=4,fused"

    def test_workers_of_a_speedup(self):
        assert [up_to(workers) for workers in (1, 2, 3, 4, 6)] == [(1,), (1, 2), (1, 2, 3), (1, 2, 4), (1, 2, 4, 6)]

    def test_the_page_is_asked_to_insert_it(self, panel, monkeypatch):
        sent = []
        monkeypatch.setattr(type(panel.chart), "send", lambda self, content, buffers=None: sent.append(content))
        panel.controls.as_cell.click()
        assert sent == [{"insert": panel.asked.line}]

    @pytest.mark.mpi
    def test_run_as_a_cell_it_is_the_same_run_bit_for_bit(self, notebook, panel):
        panel.controls.way.value, panel.controls.epochs.value = "sharded, central server", 2
        panel.controls.workers.value, panel.controls.more["aggregate"].value = 2, "ordered"
        panel.controls.run.click()
        by_button = finished(panel)
        notebook.run(f"{panel.asked.line} -o by_cell")
        by_cell = notebook.names["by_cell"]
        assert by_cell.result.options == by_button.result.options
        mine, theirs = (run.result.network.state_dict() for run in (by_button, by_cell))
        assert all(mine[name].equal(theirs[name]) for name in mine)


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
