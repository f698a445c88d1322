"""Tables as text and as HTML; seconds and shares as people read them."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from cooptim_magics.curves import speedup_curves
from cooptim_magics.tables import Table, cost_notes, costs_table, row_notes, rows_line, rows_table
from cooptim_magics.words import duration, percent

from cooptim_lab.costs.formulas import CostRow
from cooptim_lab.costs.links import Calibration, Link
from cooptim_lab.studies.rows import Row


def row(**fields) -> Row:
    known = {
        "way": "sharded",
        "title": "2 shards, server",
        "workers": 2,
        "threads": 1,
        "seconds": 2.0,
        "baseline_seconds": 3.0,
        "repeats": 1,
        "low": 1.5,
        "high": 1.5,
        "loss": 0.125,
        "metric": 0.9666,
        "metric_name": "accuracy",
        "parameters": 8970,
    }
    return Row(**{**known, **fields})


class TestText:
    def test_columns_are_aligned(self):
        text = repr(Table([["name", "n"], ["a", "1"], ["longer", "1,000"]], ["a note"]))
        assert text == "name        n\n──────  ─────\na           1\nlonger  1,000\na note"

    def test_numbers_are_read_by_their_ends_and_words_by_their_beginnings(self):
        lines = repr(Table([["", "one", "two"], ["x", "1.5 s", "no"], ["y", "12.5 s", "none"]])).splitlines()
        assert lines[2:] == ["x   1.5 s  no", "y  12.5 s  none"]

    def test_a_header_alone(self):
        assert repr(Table([["a", "bc"]])) == "a  bc\n─  ──"

    def test_rows_of_unequal_length_are_refused(self):
        with pytest.raises(ValueError, match="zip"):
            repr(Table([["a", "b"], ["c"]]))


class TestHtml:
    def test_is_a_table(self):
        html = Table([["", "n"], ["a", "1"], ["b", "22"]], ["note"])._repr_html_()
        assert len(re.findall("<tr>", html)) == 3
        assert html.count("<th ") == 2
        assert html.count("<td ") == 4
        assert '<td style="text-align:right">22</td>' in html
        assert '<td style="text-align:left">b</td>' in html
        assert "note" in html

    def test_nothing_of_it_is_markup(self):
        bad = "<script>alert('&')</script>"
        html = Table([[bad], [bad]], [bad])._repr_html_()
        assert "<script" not in html
        assert html.count("&lt;script&gt;") == 3
        assert bad in repr(Table([[bad], [bad]]))


class TestRows:
    def test_one_round(self):
        head, cells = rows_table([row()])
        assert dict(zip(head, cells, strict=True)) == {
            "": "2 shards, server",
            "workers": "2",
            "threads": "1",
            "seconds": "2.000",
            "P = T_c/T_p": "0.67",
            "speedup 1/P": "1.50×",
            "held-out accuracy": "96.7 %",
            "parameters": "8,970",
        }

    def test_rounds_show_their_range(self):
        head, cells = rows_table([row(repeats=5, low=1.25, high=2)])
        assert dict(zip(head, cells, strict=True))["range of 1/P"] == "1.25 – 2.00"

    def test_the_interval_stands_before_it(self):
        head, *rows = rows_table(
            [row(repeats=5, low=1.25, high=2, interval=(1.126, 2.2)), row(repeats=5, way="baseline")]
        )
        assert [head[head.index("range of 1/P") + i] for i in (-2, -1)] == ["speedup 1/P", "95 % interval"]
        assert [cells[head.index("95 % interval")] for cells in rows] == ["1.13 – 2.20", ""]

    def test_a_record_of_old_has_none(self):
        assert "95 % interval" not in rows_table([row(repeats=5)])[0]

    def test_what_is_not_told_apart_from_noise_is_no_headline(self):
        said = rows_line([row(interval=(0.9, 2.5)), row(title="b", interval=(1.1, 2.0))])
        assert said == "2 shards, server 1.50× (no gain told apart from noise) · b 1.50×"

    def test_another_metric(self):
        head, cells = rows_table([row(metric_name="loss", metric=0.00123456)])
        assert dict(zip(head, cells, strict=True))["held-out loss"] == "0.001235"

    def test_a_metric_that_is_no_number_is_not_zero(self):
        _, cells = rows_table([row(metric_name="loss", metric=math.nan)])
        assert "nan" in cells

    def test_every_doubt_is_under_it(self):
        rows = [row(), row(title="slow", warnings=("noisy", "4 workers on 2 CPUs take turns"))]
        assert row_notes(rows, ["said"])[3:] == ["⚠ slow: noisy", "⚠ slow: 4 workers on 2 CPUs take turns", "said"]
        assert "P below 1 is better" in row_notes(rows)[0]


class TestNoHeadline:
    BUSY = row(
        repeats=3, low=14.25, high=18.7, seconds=1.0, baseline_seconds=18.7, trouble="busy", warnings=("busy: x",)
    )

    def test_the_range_stands_and_no_figure(self):
        head, cells = rows_table([self.BUSY])
        shown = dict(zip(head, cells, strict=True))
        assert (shown["P = T_c/T_p"], shown["speedup 1/P"]) == ("", "busy: not measured")
        assert shown["range of 1/P"] == "14.25 – 18.70"
        assert rows_line([self.BUSY]) == "busy: not measured"
        assert rows_line([self.BUSY, row()]) == "2 shards, server busy: not measured · 2 shards, server 1.50×"

    def test_one_round_has_no_range_either(self):
        one = replace(self.BUSY, repeats=1, low=None, high=None)
        assert "18.7" not in repr(Table(rows_table([one]), row_notes([one])))
        (ideal,) = speedup_curves([one])
        assert ideal.kind == "ideal"

    def test_a_curve_has_no_dot(self):
        measured, span, _ = speedup_curves([self.BUSY, row(workers=1)])
        assert (measured.x, measured.y, measured.kind) == ([1.0], [1.5], "marker")
        assert (measured.name, measured.lo, measured.hi) == ("measured", [1.5], [1.5])
        assert (span.name, span.x, span.y, span.lo) == ("busy: not measured (range)", [2.0, 2.0], [14.25, 18.7], None)

    def test_a_dot_has_its_interval(self):
        measured, _ = speedup_curves([row(low=1.4, high=1.6, interval=(1.2, 1.9))])
        assert (measured.name, measured.lo, measured.hi) == ("measured, 95 % interval", [1.2], [1.9])

    def test_what_all_rows_have_is_said_once(self):
        said = row_notes([self.BUSY, replace(self.BUSY, title="b", warnings=("busy: x", "y"))], ["z"])
        assert said == ["⚠ busy: x", "⚠ b: y", "z"]

    def test_a_refused_way_has_its_reason(self):
        rows = [row(), Row.refused("subnets", "4 sub-networks", 2, "cannot be split")]
        assert rows_table(rows)[2] == ["4 sub-networks", "2", "", "", "", "refused", "", ""]
        assert row_notes(rows)[-1] == "⚠ 4 sub-networks: cannot be split"
        assert rows_line(rows) == "2 shards, server 1.50× · 4 sub-networks refused"

    def test_no_serial_fraction_outside_of_0_and_1(self):
        assert row_notes([row()])[1] == "Efficiency, 1/P over the workers: 0.75 on 2 workers."
        assert "Serial fraction" in row_notes([row()])[2]
        assert "Serial fraction" not in repr(row_notes([row(seconds=9.0)]))


class TestCosts:
    def test_predicted_beside_measured(self):
        cost = CostRow.of("server", 4, 1_204_000, predicted=0.24, exchange=0.18, took=[0.2, 0.3, 0.1])
        head, cells = costs_table([cost])
        assert dict(zip(head, cells, strict=True)) == {
            "way": "server",
            "workers": "4",
            "predicted ms": "240.00",
            "measured ms": "200.00",
            "range": "100 – 300",
            "off by": "+20 %",
            "of it exchange": "75.0 %",
        }

    def test_what_it_was_reckoned_with(self):
        between = Link(alpha=2e-5, beta=1.2e7, both=1.1e7)
        (note,) = cost_notes(Calibration(local=None, between=between))
        assert note == "between hosts: α = 20 µs, β = 12 MB/s, 11 each way while both are in use"
        assert len(cost_notes(Calibration(local=between, between=between))) == 2
        assert cost_notes(None) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.00 s"),
        (1.234, "1.23 s"),
        (9.99, "9.99 s"),
        (12.6, "13 s"),
        (119, "119 s"),
        (120, "2.0 min"),
        (5400, "90.0 min"),
        (7200, "2.0 h"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_percent():
    assert percent(0.9666) == "96.7 %"
    assert percent(1) == "100.0 %"
