"""What the face shows of shards: where the time went, how old gradients were, what is void after going back."""

from __future__ import annotations

import pytest
from cooptim_magics import sheets
from cooptim_magics.picture import Picture
from cooptim_magics.plots import figure
from cooptim_magics.tables import row_notes, spent_table, spent_verdict

from cooptim_lab.runs import store
from cooptim_lab.runs.events import Points, Resumed, Spent, Stale, Started
from cooptim_lab.studies.rows import Row, karp_flatt
from tests.support import PATIENCE_SECONDS, wait_until


def spent(rank, steps=10, compute=0.6, communication=0.3, waiting=0.1, sent=5000):
    times = {"compute": compute, "communication": communication, "waiting": waiting}
    return Spent(rank=rank, time=1.0, steps=steps, sent=sent, **times)


def picture(*events):
    return Picture.of("sharded: digits", [Started(way="sharded", options={}, workers=2), *events])


class TestWhereTheTimeWent:
    def test_what_is_told_in_parts_adds_up(self):
        made = picture(spent(0), spent(1), spent(0), spent(1, compute=0.4))
        assert (made.spent[0].steps, made.spent[0].compute, made.spent[0].sent) == (20, 1.2, 10_000)
        assert made.spent[1].compute == 1.0

    def test_the_table_is_by_step(self):
        head, row, _ = spent_table(picture(spent(0), spent(1)).spent)
        assert head[0] == "rank"
        assert row == ["0", "10", "100.00", "60.0 %", "30.0 %", "10.0 %", "0.5"]

    def test_the_verdict_names_what_is_largest(self):
        said = spent_verdict(picture(spent(0), spent(1)).spent)
        assert "Of the ranks' time 40 % is lost: 30 % exchanging, 10 % waiting." in said
        assert f"{karp_flatt(1.2, 2):.3f}" in said
        waits = spent_verdict(picture(spent(0, waiting=2.0), spent(1)).spent)
        assert "is lost: 54 % waiting" in waits

    def test_less_than_one_rank_would_do_is_said_so(self):
        said = spent_verdict(picture(spent(0, compute=0.1), spent(1, compute=0.1)).spent)
        assert "no more in a second than one alone" in said

    def test_one_rank_alone_has_none(self):
        made = picture(spent(0))
        assert not made.has_breakdown
        assert made.verdict == ""
        assert sheets.table(made) == []

    def test_the_figure_has_a_bar_for_every_rank(self):
        drawing = figure(picture(spent(0), spent(1), Points(curve="training loss", x=(1.0, 2.0), y=(1.0, 0.5))))
        curves, bars = drawing.axes
        assert len(curves.lines) == 1
        assert len(bars.patches) == 2 * 3
        assert sum(bar.get_width() for bar in bars.patches) == pytest.approx(200)  # ms a step, of both


def test_after_going_back_what_came_later_is_void():
    later = [Points(curve="training loss", x=(0.5, 1.0, 1.5), y=(3.0, 2.0, 1.0)), spent(0), spent(1)]
    made = picture(*later, Resumed(rank=0, step=10, epoch=1.0), Points(curve="training loss", x=(1.5,), y=(0.9,)))
    (curve,) = made.curves
    assert (list(curve.x), list(curve.y)) == ([0.5, 1.0, 1.5], [3.0, 2.0, 0.9])
    assert not made.spent


def test_how_old_gradients_were_is_in_the_status():
    assert "gradients 1.2 steps old, 3 at most" in picture(Stale(rank=0, mean=1.25, most=3)).status


def row(workers, seconds):
    return Row(
        way="sharded", title="", workers=workers, seconds=seconds, baseline_seconds=1.0, repeats=5, low=1, high=1,
        loss=0, metric=1, metric_name="accuracy", parameters=1
    )  # fmt: skip


class TestKarpFlatt:
    @pytest.mark.parametrize("serial", [0.0, 0.1, 0.5, 1.0])
    def test_of_amdahls_law_it_is_the_serial_fraction(self, serial):
        for workers in (2, 3, 4, 64):
            assert karp_flatt(1 / (serial + (1 - serial) / workers), workers) == pytest.approx(serial, abs=1e-12)

    def test_breakage_with_an_overhead_it_grows(self):
        with_overhead = [karp_flatt(1 / (0.1 + 0.9 / p + 0.02 * p), p) for p in (2, 4, 8)]
        assert with_overhead == sorted(with_overhead)
        assert with_overhead[-1] > with_overhead[0] * 1.2

    def test_it_stands_under_the_table(self):
        notes = row_notes([row(1, 1.0), row(2, 0.6), row(4, 0.5)])
        assert "Serial fraction (Karp and Flatt): 0.20 on 2 workers, 0.33 on 4 workers." in notes


@pytest.mark.mpi
class TestCells:
    @pytest.fixture(autouse=True)
    def own_record(self, ranks, tmp_path, monkeypatch):
        ranks.start()
        monkeypatch.setenv(store.PLACE, str(tmp_path))

    def test_a_class_of_the_notebooks_aggregates(self, notebook):
        body = "    def aggregate(self, comm, gradient):\n        gradient[:] = sum(comm.allgather(gradient))"
        notebook.run(f"class Plain:\n{body}")
        notebook.run("%cooptim sharded --workers 2 --aggregate Plain --epochs 2 -o run")
        assert notebook.names["run"].result.engine == "Plain"
        notebook.run("class Empty: pass\nnumber = 1")
        for name in ("Empty", "number", "nothing"):
            said = notebook.refuse(f"%cooptim sharded --workers 2 --aggregate {name}")
            assert name in said
            assert "method aggregate" in said

    def test_the_table_and_the_verdict_are_shown(self, notebook):
        outcome = notebook.run("%cooptim sharded --workers 2 --epochs 3")
        shown = [output["data"]["text/plain"] for output in outcome.displayed if "text/html" in output["data"]]
        assert any("is lost" in text and "Of the ranks' time" in text for text in shown)

    def test_a_run_that_was_stopped_is_resumed(self, notebook):
        notebook.run("%cooptim sharded --workers 2 --epochs 1000000 --save-every 5 --bg -o run")
        run = notebook.names["run"]
        assert wait_until(lambda: store.path(run.id, store.CHECKPOINT).exists())
        run.stop()
        assert run.join(PATIENCE_SECONDS)
        notebook.run(f"%cooptim resume {run.id} --bg -o again")
        again = notebook.names["again"]
        assert wait_until(lambda: any(isinstance(event, Resumed) for event in again.log.since(0)))
        assert "goes on already" in notebook.refuse(f"%cooptim resume {run.id}")
        again.stop()
        assert again.join(PATIENCE_SECONDS)

    def test_what_made_no_checkpoint_cannot(self, notebook):
        notebook.run("%cooptim sharded --workers 2 --epochs 2 -o run")
        assert "nothing to resume" in notebook.refuse(f"%cooptim resume {notebook.names['run'].id}")
