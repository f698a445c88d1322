"""From events to what the eye sees: the fold, and the figure that stays."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import pytest
from cooptim_magics import sheets
from cooptim_magics.picture import Picture
from cooptim_magics.plots import figure, mime_bundle

from cooptim_lab.costs.formulas import CostRow
from cooptim_lab.runs.events import (
    Calibrated,
    Costed,
    Ended,
    Event,
    Measured,
    Note,
    Output,
    Phase,
    Points,
    Progress,
    Started,
)
from tests.magics.test_tables import row


def points(curve: str, x, y, rank: int = 0) -> Points:
    return Points(rank=rank, curve=curve, x=tuple(x), y=tuple(y), time=102.0)


def picture(*events: Event, way: str = "subnets", workers: int = 2, title: str = "a title") -> Picture:
    return Picture.of(title, [Started(way=way, options={}, workers=workers, time=100.0), *events])


SCORED = {"seconds": 1.5, "metric": 0.97, "metric_name": "accuracy", "parameters": 1234, "engine": "stacked"}
SCORES = "1.50 s of training · held-out accuracy 97.0 % · 1,234 parameters"


class TestFold:
    def test_before_anything_has_happened(self):
        empty = Picture("t")
        assert (empty.curves, empty.fraction, sheets.table(empty), empty.state) == ([], None, [], "waiting")
        assert empty.status == "waiting for the ranks"

    def test_points_of_one_curve_are_joined(self):
        seen = picture(points("held-out loss", [1], [0.5]), points("held-out loss", [2, 3], [0.4, 0.3]))
        (curve,) = seen.curves
        assert (curve.name, list(curve.x), list(curve.y)) == ("held-out loss", [1, 2, 3], [0.5, 0.4, 0.3])

    def test_in_pieces_or_at_once(self):
        events = [points("training loss", [i], [1 / i]) for i in range(1, 9)] + [Progress(rank=0, done=4, total=8)]
        piecewise = Picture("t")
        for event in events:
            piecewise.feed([event])
        whole = Picture.of("t", events)
        assert [list(curve.y) for curve in piecewise.curves] == [list(curve.y) for curve in whole.curves]
        assert (piecewise.version, piecewise.fraction) == (whole.version, whole.fraction) == (9, 0.5)

    def test_a_long_training_loss_is_smoothed_with_the_raw_one_behind(self):
        y = np.random.default_rng(0).normal(2.0, 1.0, 1000)
        y[500] = np.inf
        raw, line = picture(points("training loss", range(1, 1001), y)).curves
        assert (raw.name, raw.kind, line.name, line.kind) == ("training loss", "faint", "training loss", "line")
        assert list(raw.y) == list(y)
        assert line.y[700] == pytest.approx(y[681:701].mean())
        assert line.y[510] == pytest.approx(np.delete(y[491:511], 9).mean())
        assert np.isinf(line.y[500]) and np.isfinite(np.delete(line.y, 500)).all()
        assert np.std(line.y[700:]) < 0.4 * np.std(y[700:])

    def test_subnets_are_faint_behind_the_fused_one(self):
        seen = picture(*(points(name, [1], [1]) for name in ("subnet 0", "training loss", "subnet 1", "held-out loss")))
        assert seen.curves[0].name == "held-out loss"
        assert [curve.kind for curve in seen.curves].count("line") == 1
        assert [curve.kind for curve in seen.curves if curve.name == "each sub-network"] == ["faint", "faint"]

    def test_the_curves_of_a_study_are_named_by_its_ways(self):
        curves = [points(f"{way} · held-out loss", [1], [1]) for way in ("as it is", "2 shards")]
        seen = picture(*curves, way="compare")
        assert {curve.name for curve in seen.curves} == {"as it is", "2 shards"}
        assert seen.labels["y_label"] == "held-out loss"

    def test_progress_is_of_the_rank_furthest_behind(self):
        seen = picture(Progress(rank=0, done=9, total=10), Progress(rank=1, done=3, total=10))
        assert seen.fraction == 0.3
        seen.feed([Progress(rank=1, done=10, total=10)])
        assert seen.fraction == 0.9
        seen.feed([Ended(state="done")])
        assert seen.fraction == 1.0

    def test_progress_of_nothing_is_unknown(self):
        assert picture(Progress(rank=0, done=0, total=0)).fraction is None

    def test_status_while_it_goes_on(self):
        seen = picture(Phase(text="training", time=101.0), points("training loss", [2.5], [1.0]))
        assert seen.status == "training · epoch 3 · 2.00 s"
        assert seen.state == "running"

    @pytest.mark.parametrize(
        ("ended", "status"),
        [
            (
                Ended(state="done", summary=SCORED),
                SCORES,
            ),
            (Ended(state="stopped"), "stopped"),
            (Ended(state="done"), "done"),
            (Ended(state="failed", message="rank 1 on here: gone"), "failed · rank 1 on here: gone"),
        ],
    )
    def test_status_at_the_end(self, ended, status):
        assert picture(ended).sentence == status

    def test_stopped_with_a_result(self):
        assert picture(Ended(state="stopped", summary=SCORED)).sentence.startswith("stopped · 1.50 s of training")

    def test_output_and_notes_are_kept_in_order(self):
        outputs = [Output(rank=i, stream="stdout", text=f"{i}\n") for i in (1, 0)]
        seen = picture(outputs[0], Note(text="a"), outputs[1], Note(text="b"))
        assert seen.output == outputs
        assert seen.notes == ["a", "b"]

    def test_a_later_round_takes_the_place_of_a_row(self):
        seen = picture(Measured(row=row(repeats=1).summary()), Measured(row=row(repeats=2).summary()))
        assert seen.rows == {"2 shards, server": row(repeats=2)}
        assert len(sheets.table(seen)) == 2

    def test_speedup_has_measured_points_and_the_ideal(self):
        measured = [Measured(row=row(title=f"{n}", workers=n, low=0.9 * n, high=1.1 * n).summary()) for n in (1, 2, 4)]
        base = Measured(row=row(way="baseline", title="as it is", workers=1).summary())
        seen = picture(base, *measured, way="speedup")
        points, ideal = seen.curves
        assert (points.kind, list(points.x), list(points.lo)) == ("marker", [1, 2, 4], [0.9, 1.8, 3.6])
        assert (ideal.kind, list(ideal.x), list(ideal.y)) == ("ideal", [1, 4], [1, 4])
        assert seen.labels["x_label"] == "workers"

    def test_costs_have_a_line_and_dots_of_one_colour(self):
        rows = [CostRow.of("server", m, 1000, 0.1 * m, 0.09 * m, [0.1 * m, 0.2 * m, 0.3 * m]) for m in (2, 4)]
        links = Calibrated(links={"local": None, "between": None, "gamma": 0.0, "cpus": 2})
        costed = [Costed(row=each.summary()) for each in rows]
        seen = picture(links, *costed, points("server", [2, 3, 4], [0.2, 0.3, 0.4]), way="costs")
        line, dots = seen.curves
        assert (line.name, line.kind, list(line.y)) == ("server", "line", [200, 300, 400])
        assert (dots.name, dots.kind, list(dots.x)) == ("server", "marker", [2, 4])
        assert (list(dots.y), list(dots.lo)) == (pytest.approx([400, 800]), pytest.approx([200, 400]))
        assert seen.labels["x_label"] == "workers"
        assert seen.costs == rows
        assert len(sheets.table(seen)) == 3
        assert "epoch" not in seen.status

    def test_speedup_before_the_first_point(self):
        base = Measured(row=row(way="baseline", title="as it is", workers=1).summary())
        assert picture(base, way="speedup").curves == []

    @pytest.mark.parametrize(
        ("y", "is_logarithmic"),
        [
            ([1, 0.01], True),
            ([1, 0.5], False),
            ([1, 0], False),
            ([1, -9], False),
            ([], False),
            ([1, math.nan, 0.01], True),
        ],
    )
    def test_logarithmic(self, y, is_logarithmic):
        assert picture(points("training loss", range(len(y)), y)).is_logarithmic == is_logarithmic


class TestEndOfX:
    @pytest.mark.parametrize(
        ("way", "options", "end"),
        [
            ("subnets", {"epochs": 30}, 30.0),
            ("compare", {"epochs": 5}, 5.0),
            ("baseline", {"epochs": 30, "until": 0.9}, 0.0),
            ("speedup", {"epochs": 30}, 0.0),
            ("sharded", {}, 0.0),
        ],
    )
    def test_it_is_known_where_x_is_epochs(self, way, options, end):
        seen = Picture.of("t", [Started(way=way, options=options, workers=1, time=0.0)])
        assert seen.labels["x_end"] == end


class TestDoubts:
    def test_a_point_in_doubt_is_hollow_and_says_why(self):
        rows = [row(workers=1), row(workers=2, warnings=("the machine was busy", "few rounds"))]
        seen = picture(*(Measured(row=each.summary()) for each in rows), way="speedup")
        (ring,) = [curve for curve in seen.curves if curve.kind == "hollow"]
        assert ring.x == [2.0] and ring.why == "the machine was busy; few rounds"
        assert ring.pack()[0]["why"] == ring.why
        (axes,) = figure(seen).axes
        assert "in doubt" in [text.get_text() for text in axes.get_legend().get_texts()]


class TestFigure:
    def drawn(self, seen: Picture):
        return figure(seen).axes[0]

    def test_has_the_lines_of_the_record(self):
        seen = picture(points("held-out loss", [1, 2], [0.9, 0.8]), points("training loss", [1, 2], [0.7, 0.6]))
        axes = self.drawn(seen)
        drawn = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
        assert drawn == {"held-out loss": ([1, 2], [0.9, 0.8]), "training loss": ([1, 2], [0.7, 0.6])}
        assert axes.get_xlabel() == "epoch"
        assert axes.get_title(loc="left").splitlines()[0] == "a title"

    def test_what_is_no_number_is_a_gap(self):
        seen = picture(points("held-out loss", [1, 2, 3, 4], [0.9, math.nan, math.inf, 0.5]))
        (line,) = self.drawn(seen).lines
        y = np.asarray(line.get_ydata(), float)
        assert not np.isfinite(y[1:3]).any()
        assert 0 not in y

    def test_many_subnets_take_one_entry_and_one_colour(self):
        axes = self.drawn(picture(*(points(f"subnet {i}", [1, 2], [1, 1]) for i in range(20))))
        assert len({line.get_color() for line in axes.lines}) == 1
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["each sub-network"]

    def test_speedup(self):
        measured = Measured(row=row(workers=2, low=1.0, high=1.75).summary())
        axes = self.drawn(picture(measured, way="speedup"))
        dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert [list(line.get_xdata()) for line in dashed] == [[1, 2]]
        (bars,) = axes.containers
        (segment,) = bars[2][0].get_segments()
        assert segment.tolist() == [[2, 1.0], [2, 1.75]]
        assert axes.get_ylim()[0] == 0

    def test_losses_over_decades_are_logarithmic(self):
        assert self.drawn(picture(points("training loss", [1, 2], [1, 0.001]))).get_yscale() == "log"

    def test_one_point_is_seen(self):
        (line,) = self.drawn(picture(points("held-out loss", [1], [1]))).lines
        assert line.get_marker() == "."


class TestMimeBundle:
    def test_a_picture_and_one_line(self):
        seen = picture(points("training loss", [1, 2], [1, 1]), Ended(state="done", summary=SCORED))
        bundle = mime_bundle(seen)
        assert set(bundle) == {"image/png", "text/plain"}
        assert "\n" not in bundle["text/plain"]
        assert bundle["text/plain"] == f"a title: {seen.status}"
        from matplotlib.image import imread

        pixels = imread(io.BytesIO(base64.b64decode(bundle["image/png"])))
        assert pixels.shape[0] > 300
        assert pixels.std() > 0, "an empty picture"

    def test_nothing_to_draw(self):
        assert mime_bundle(picture(Ended(state="stopped"))) == {"text/plain": "a title: stopped"}

    def test_a_title_that_looks_like_mathematics(self):
        seen = picture(points("training loss", [1, 2], [1, 1]), title="cost $5_to $x^ {")
        assert "image/png" in mime_bundle(seen)

    def test_a_failure_of_many_lines_is_told_in_one(self):
        seen = picture(points("held-out loss", [1, 2], [1, 1]), Ended(state="failed", message="first\nsecond"))
        assert "\n" not in mime_bundle(seen)["text/plain"]
