"""The machine on one screen, the strip in every view, and the live view alone: what is shown, said and let go of."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace
from html import escape

import pytest
from cooptim_magics import machine_view, strip, view
from cooptim_magics.machine import MachineScreen
from cooptim_magics.panel import LabPanel
from cooptim_magics.session import session
from cooptim_magics.words import duration

from cooptim_lab import hardware
from cooptim_lab.hardware.gpus import Gpu, GpuLoad
from cooptim_lab.hardware.sampler import Core, Sample
from tests.support import wait_until

FOUND = hardware.detect()
GIB = 1 << 30


def samplers():
    return [thread for thread in threading.enumerate() if thread.name == "cooptim-sampler"]


@pytest.fixture
def fast(monkeypatch):
    assert wait_until(lambda: not samplers())
    monkeypatch.setattr("cooptim_lab.hardware.watching.PERIOD_SECONDS", 0.02)
    monkeypatch.setattr(machine_view, "PERIOD_SECONDS", 0.02)
    yield
    assert wait_until(lambda: not samplers()), "a sampler is left at work"


class TestScreen:
    @pytest.mark.parametrize(
        ("changed", "parts"),
        [
            ({}, ["cores", "you may use", "memory", "vector units", "GPU"]),
            ({"cores_host": 8, "affinity": 2, "quota": None}, ["you may use 2 of the host's 8", "[■][■][ ][ ]"]),
            (
                {"cores_host": 2, "affinity": 2, "quota": 0.5},
                ["you may use 0.5 of the host's 2, by a quota of 0.5 CPUs"],
            ),
            ({"cores_host": 200, "affinity": 200, "quota": None}, ["and 136 more"]),
            ({"cores_host": None, "affinity": None, "quota": None}, ["unknown how many you may use"]),
            ({"gpus": None}, ["unknown: the driver does not answer"]),
            ({"gpus": (Gpu("A100", 40 * GIB, "1", "8.0", False),)}, ["none that CUDA_VISIBLE_DEVICES lets you use"]),
            ({"gpus": (Gpu("A100", 40 * GIB, "1", "8.0", True),)}, ["A100, 40 GiB"]),
            ({"memory_total": None, "memory_limit": None, "memory_available": None}, ["memory        unknown"]),
            (
                {"memory_total": 8 * GIB, "memory_limit": 2 * GIB, "memory_available": GIB},
                ["1 GiB free of 2 GiB, by a limit"],
            ),
            ({"simd": None}, ["vector units  unknown"]),
        ],
    )
    def test_what_it_says(self, changed, parts):
        screen = MachineScreen(replace(FOUND, **changed))
        for part in parts:
            assert part in repr(screen)
        assert screen._repr_html_().startswith('<div class="cooptim-machine">')

    def test_warnings_come_first_and_the_readings_are_folded(self):
        screen = MachineScreen(replace(FOUND, warnings=("the <quota> is small",)))
        assert repr(screen).startswith("⚠ the <quota> is small")
        html = screen._repr_html_()
        assert html.index("⚠ the &lt;quota&gt; is small") < html.index("cores") < html.index("<details>")
        assert f"all {len(hardware.rows(FOUND))} readings" in html
        assert all(escape(name) in html[html.index("<details>") :] for name, _, _ in hardware.rows(FOUND))

    def test_as_a_cell(self, notebook):
        outcome = notebook.run("%cooptim hardware")
        assert hardware.summary(hardware.detect()).split(" · ")[0] in outcome.stdout
        (shown,) = outcome.displayed
        assert "you may use" in shown["data"]["text/plain"] and "<details>" in shown["data"]["text/html"]


class TestLive:
    def test_it_lives_for_so_long_and_leaves_words(self, notebook, fast):
        outcome = notebook.run("%cooptim hardware --live --seconds 0.3")
        assert "application/vnd.jupyter.widget-view+json" in outcome.displayed[0]["data"]
        assert wait_until(lambda: notebook.kept[-1]["update"])
        said = notebook.kept[-1]["data"]["text/plain"]
        assert said.startswith("seen for ") and "CPU 0: " in said and "memory: " in said

    @pytest.mark.parametrize(
        ("line", "parts"),
        [
            ("--live --measure", ("--measure and --live", "leave one out")),
            ("--seconds 3", ("--seconds", "add --measure or --live")),
            ("--live --again", ("--again", "--measure")),
        ],
    )
    def test_what_does_not_go_together(self, notebook, line, parts):
        message = notebook.refuse(f"%cooptim hardware {line}")
        assert all(part in message for part in parts), message

    def test_what_was_seen_in_words(self):
        cores = (Core(0, 0.5, 0.1), Core(3, 1.0, 0.0))
        sample = Sample(0.0, 30.0, cores, 0.5, 0.4, GIB, 2 * GIB, (GpuLoad(0.25, 1, 2),))
        lines = machine_view.said_of([sample, replace(sample, cores=(Core(0, 0.7, 0.0), cores[1]), memory=2 * GIB)])
        assert lines == [
            f"seen for {duration(60)}:", "CPU 0: 60 % busy, 70 % at the most", "CPU 3: 100 % busy, 100 % at the most",
            "taken by other guests of the host: 2.5 %", "quota of 0.5 CPUs: used up in 40 % of its periods",
            "memory: 2 GiB of 2 GiB at the most", "GPU 0: 25 % busy",
        ]  # fmt: skip
        assert machine_view.said_of([Sample(0.0, 1.0)]) == ["seen for 1.00 s:", "CPUs: unknown", "memory: unknown"]
        assert machine_view.said_of([]) == ["nothing was seen of the machine"]


class TestInViews:
    def test_a_run_s_view_has_it_while_it_goes_on(self, notebook, ranks, fast, monkeypatch):
        seen = []
        real = strip.shown

        def shown():
            seen.append(real())
            return seen[-1]

        monkeypatch.setattr(strip, "shown", shown)
        notebook.run("%cooptim sharded --workers 2 --epochs 30")
        assert any(sample and sample["cores"] for sample in seen)

    def test_what_makes_seconds_worthless_is_said_under_the_figure(self, notebook, ranks, monkeypatch):
        said = "other guests of the host took 18 % of this machine: do not trust the seconds"
        monkeypatch.setattr(strip, "shown", lambda: {"trouble": said})
        assert f"⚠ {said}" in notebook.run("%cooptim sharded --workers 2 --epochs 1").stdout

    def test_the_panel_has_it_while_nothing_runs_and_lets_go_of_it_with_the_notebook(self, notebook, fast):
        panel = LabPanel(session(notebook.shell))
        panel.open()
        assert wait_until(lambda: panel.chart.machine.get("cores"))
        notebook.shell.extension_manager.unload_extension("cooptim_lab")
        assert wait_until(lambda: not samplers())
        notebook.shell.extension_manager.load_extension("cooptim_lab")
        panel.close()


def test_a_panel_that_no_page_shows_any_more_lets_go_of_the_sampler(notebook, fast, monkeypatch):
    monkeypatch.setattr("cooptim_magics.panel.PERIOD_SECONDS", 0.02)
    panel = LabPanel(session(notebook.shell))
    panel.open()
    panel.chart.set_state({"_view_count": 1})
    assert wait_until(lambda: panel.chart.machine.get("cores"))
    panel.chart.set_state({"_view_count": 0})
    assert wait_until(lambda: not samplers())
    panel.chart.set_state({"_view_count": 1})
    assert wait_until(samplers)
    panel.close()


def test_a_chart_that_a_figure_replaced_stays_a_while_for_a_page_that_is_loaded_again(notebook, ranks, monkeypatch):
    closed = []

    def close(chart):
        closed.append(chart)

    monkeypatch.setattr(view.LiveChart, "close", close)
    monkeypatch.setattr(view, "_replaced", deque())
    monkeypatch.setattr(view, "MOST_KEPT", 2)
    for _ in range(3):
        notebook.run("%cooptim sharded --workers 1 --epochs 1")
    assert len(closed) == 1 and closed[0].state == "done"


def test_runs_are_told_apart_by_what_they_ran_with(notebook, ranks):
    notebook.run("%cooptim sharded --workers 2 --epochs 1 --aggregate allreduce")
    notebook.run("%cooptim train --epochs 2 --plan batch=128,fused")
    (table,) = notebook.run("%cooptim runs").tables
    lines = table.splitlines()
    assert "workers 1, batch=128,fused, epochs 2, batch 128" in lines[2]
    assert "workers 2, allreduce, epochs 1, batch 64" in lines[3]
