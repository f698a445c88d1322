"""Why a run failed is said once: by the error that a cell raises, else by what the run leaves to be seen."""

from __future__ import annotations

import pytest
from cooptim_magics import plots
from cooptim_magics.panel import LabPanel
from cooptim_magics.picture import Picture
from cooptim_magics.plots import LINE, MOST_LINES, figure, mime_bundle
from cooptim_magics.session import session

from cooptim_lab import RankFailure
from cooptim_lab.runs import store
from cooptim_lab.runs.events import Ended, Points
from tests.support import PATIENCE_SECONDS, wait_until

REASON = "no such loss, $\\frac$ it is"  # what Matplotlib would refuse as mathematics
TASK = f"""import numpy as np
def model():
    from torch import nn
    return nn.Linear(4, 3)
data = (np.random.default_rng(0).normal(size=(90, 4)), np.arange(90) % 3)
count = 0
def loss(outputs, targets):
    global count
    count += 1
    if count > 70:  # by then it trains: what is tried before the clock, some sixty times, counts on copies
        raise LookupError({REASON!r})
    return outputs.pow(2).mean()
"""
NOT_FINITE = TASK.replace(f"raise LookupError({REASON!r})", "return outputs.sum() * float('nan')")
CELL = "%%cooptim sharded --workers 1 --epochs 99"


def failed(message: str, *, has_points: bool = True) -> Picture:
    points = [Points(rank=0, curve="training loss", x=(1.0, 2.0), y=(1.0, 0.5))] if has_points else []
    return Picture.of("a title", [*points, Ended(state="failed", message=message)])


def title(seen: Picture, *said: str) -> str:
    return figure(seen, *said).axes[0].get_title(loc="left")


class TestPicture:
    def test_the_reason_is_no_status(self):
        seen = failed("first\nsecond")
        assert (seen.state, seen.status, seen.reason) == ("failed", "", "first second")
        assert seen.sentence == "failed · first second"

    def test_what_has_not_failed_has_none(self):
        assert Picture.of("t", [Ended(state="stopped", message="stopped before it began")]).reason == ""

    @pytest.mark.parametrize("has_points", [True, False])
    def test_with_and_without(self, has_points):
        seen = failed("why", has_points=has_points)
        assert mime_bundle(seen)["text/plain"] == "a title: failed · why"
        assert mime_bundle(seen, with_reason=False)["text/plain"] == "a title: failed"

    def test_the_figure_says_what_the_text_says(self, monkeypatch):
        titles = []
        monkeypatch.setattr(plots, "figure", lambda *given: titles.append(title(*given)) or figure(*given))
        for with_reason in (True, False):
            mime_bundle(failed("why"), with_reason=with_reason)
        assert titles == ["a title\nfailed · why", "a title\nfailed"]

    def test_a_long_one_is_broken_into_lines(self):
        message = " ".join(["many words"] * 20)
        first, *lines = title(failed(message)).splitlines()
        assert first == "a title"
        assert " ".join(lines) == f"failed · {message}"
        assert max(map(len, lines)) <= LINE
        assert title(failed(message * 9)).endswith(" …")
        assert len(title(failed(message * 9)).splitlines()) == 1 + MOST_LINES


@pytest.fixture
def own_record(ranks, tmp_path, monkeypatch):
    ranks.start()
    monkeypatch.setenv(store.PLACE, str(tmp_path))


@pytest.mark.mpi
@pytest.mark.usefixtures("own_record")
class TestCell:
    def test_the_error_says_it_and_the_figure_does_not(self, notebook):
        outcome = notebook.try_cell(f"{CELL}\n{TASK}")
        assert isinstance(outcome.error, RankFailure)
        assert (outcome.stdout + outcome.stderr).count(f"RankFailure: {outcome.error}") == 1
        left = outcome.displayed[-1]["data"]
        assert "image/png" in left, "what was trained until then is to be seen"
        assert left["text/plain"] == "sharded: your task: failed"

    def test_in_the_background_the_figure_says_it(self, notebook):
        for body, reason in ((TASK, REASON), (NOT_FINITE, "no longer finite")):
            opened, _ = notebook.run(f"{CELL} --bg -o run\n{body}").displayed
            assert notebook.names["run"].join(PATIENCE_SECONDS)

            def left(place=opened["transient"]) -> list[str]:
                updates = [each for each in notebook.kept if each["update"] and each["transient"] == place]
                return [each["data"]["text/plain"] for each in updates]

            assert wait_until(left)
            assert left()[0].startswith("sharded: your task: failed · ")
            assert left()[0].count(reason) == 1

    @pytest.mark.parametrize(("body", "reason"), [(TASK, REASON), (NOT_FINITE, "no longer finite")])
    def test_a_record_is_whole(self, notebook, body, reason):
        notebook.try_cell(f"{CELL}\n{body}")
        outcome = notebook.run("%cooptim show")
        assert outcome.displayed[0]["data"]["text/plain"] == "sharded: your task: failed"
        assert outcome.stdout.count(reason) == 1
        (table,) = notebook.run("%cooptim runs").tables
        assert table.count(reason) == 1


@pytest.mark.mpi
@pytest.mark.usefixtures("own_record")
class TestPanel:
    def test_its_own_line_says_it_and_the_chart_does_not(self, notebook):
        notebook.run(f"%%cooptim task\n{TASK}")
        panel = LabPanel(session(notebook.shell))
        panel.open()
        panel.controls.way.value = "as it is"
        panel.controls.epochs.value = panel.controls.epochs.max
        panel.controls.run.click()
        (run,) = session(notebook.shell).runs.values()
        assert run.join(PATIENCE_SECONDS)
        assert wait_until(lambda: not panel.controls.run.disabled)
        assert panel.message.value.count(REASON) == 1
        assert (panel.chart.state, panel.chart.status) == ("failed", "")
        # Seen only where the panel is not: in the saved notebook.
        left = [each["data"] for each in notebook.kept if each["update"] and "image/png" in each["data"]]
        assert [each["text/plain"].count(REASON) for each in left] == [1]

    def test_a_long_message_leaves_the_buttons_their_room(self, notebook):
        panel = LabPanel(session(notebook.shell))
        assert panel.message in panel.box.children
        controls = panel.controls
        (row,) = (each for each in controls.box.children if controls.run in getattr(each, "children", ()))
        assert row.children == (controls.run, controls.stop, controls.as_cell)
