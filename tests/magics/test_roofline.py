"""The roofline: roofs, measured products, layers with their names; the tables beside it; while it is measured too."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from cooptim_magics import sheets
from cooptim_magics.picture import Picture
from cooptim_magics.plots import figure, mime_bundle
from cooptim_magics.roofline import attainable, ceilings_line, ceilings_table, layers_table, of, roofline_curves

from cooptim_lab.costs.work import Layer, Product, Step, Work
from cooptim_lab.hardware.ceilings import BF16, FLOAT32, INSIDE, Ceiling
from cooptim_lab.runs.events import Counted, Ended, Gauged, Note, Phase, Started


def ceiling(kind: str, value: float | None, name: str = "", threads: int = 1, size: int = 0, why: str = "") -> Ceiling:
    spread = (None, None) if value is None else (0.9 * value, 1.1 * value)
    return Ceiling(
        kind=kind, name=name, threads=threads, size=size, value=value, low=spread[0], high=spread[1], samples=5, why=why
    )


ROWS = [
    *(ceiling("square", n / 8 * threads, FLOAT32, threads, n) for threads in (1, 2) for n in (16, 64, 1024)),
    *(ceiling("square", n / 4, BF16, 2, n) for n in (16, 64, 1024)),
    *(ceiling("square", None, INSIDE, threads, 16, "not here") for threads in (1, 2)),
    *(ceiling("cache", 80.0 * threads, "", threads, 1 << 20) for threads in (1, 2)),
    *(ceiling("memory", 8.0 * threads, "", threads, 1 << 28, "768 MiB, less") for threads in (1, 2)),
    ceiling("operator, trained", 3e-6),
    ceiling("step of a tensor", 6e-5, "Adam, fused", size=16),
    ceiling("step of tensors", 3.8e-4, "Adam, fused", size=64 * 16),
    ceiling("step of a large tensor", 2e-3, "Adam, fused", size=1 << 20),
    ceiling("latency", 1.3e-6),
]


def layer(name: str, kind: str, operations: int, moved: int, seconds: tuple[float, ...]) -> Layer:
    products = (Product(1, operations // 2, 1),) if operations else ()
    work = Work(operations, moved, 1, 0, products, moved if operations else 0)
    return Layer(name=name, kind=kind, parameters=10, forward=work, backward=work + work, seconds=seconds)


STEP = Step(
    name="a task",
    rows=64,
    precision="float32",
    threads=2,
    layers=(
        layer("0", "Linear", 8_000_000, 1_000_000, (1e-3, 2e-3, 4e-3)),
        layer("1", "ReLU", 0, 500_000, ()),
        layer("2", "Linear", 8_200_000, 1_000_000, (2e-3, 2e-3)),
        layer("head.of.a.long.path", "Linear", 80_000, 400_000, (1e-3,)),
    ),
    loss=Work(0, 1000, 3),
    optimizer=Work(0, 9000, 1),
    parameters=30,
    tensors=6,
)


def picture(*rows: Ceiling, step: Step | None = STEP, more=()) -> Picture:
    counted = [] if step is None else [Counted(step=step.summary())]
    gauged = [Gauged(ceiling=row.summary()) for row in rows]
    return Picture.of("a title", [Started(way="ceilings", options={}, workers=2), *counted, *gauged, *more])


class TestCurves:
    def test_roofs_and_products_share_a_name(self):
        curves = roofline_curves(ROWS, None)
        assert [(c.name, c.kind) for c in curves] == [
            (name, kind)
            for name in ("float32, 1 core", "float32, 2 cores", "bf16, 2 cores")
            for kind in ("line", "marker")
        ]

    def test_a_roof_is_the_lower_of_two(self):
        roof, dots = roofline_curves(ROWS, None)[:2]
        assert roof.y[-1] == roof.y[1] == 128.0  # the fastest product
        assert roof.x[1] == 128.0 / 8.0  # from here on it is that
        assert roof.y[0] == pytest.approx(8.0 * roof.x[0])
        assert list(dots.x) == pytest.approx([16 / 6, 64 / 6, 1024 / 6])  # n/6 operations a byte, of 4 bytes a number
        assert list(dots.y) == [2.0, 8.0, 128.0]

    def test_bf16_moves_half_the_bytes(self):
        dots = roofline_curves(ROWS, None)[-1]
        assert list(dots.x) == pytest.approx([16 / 3, 64 / 3, 1024 / 3])

    def test_layers_lie_where_they_are_and_share_a_label_where_they_lie_together(self):
        first, second, third = roofline_curves(ROWS, STEP)[-3:]
        assert {c.name for c in (first, second, third)} == {"layers of a task, 2 cores"}
        assert (first.x, first.y) == ([8.0], [pytest.approx(4.0)])
        assert (first.lo[0], first.hi[0]) == pytest.approx((3.0, 6.0))
        assert (first.label, second.label) == ("0, 2", "")
        assert (third.label[0], third.label[-5:], len(third.label)) == ("…", ".path", 16)

    def test_colours_stay_while_points_come(self):
        names = [
            list(dict.fromkeys(curve.name for curve in roofline_curves(ROWS[:count], STEP)))
            for count in range(len(ROWS) + 1)
        ]
        assert all(each == names[0] for each in names)

    def test_what_is_refused_has_no_place(self):
        rows = [ceiling("square", 5.0, FLOAT32, 1, 16), ceiling("square", None, BF16, 1, 16, "no such kernel")]
        assert [curve.name for curve in roofline_curves(rows, None)] == ["float32, 1 core"]

    def test_nothing_yet(self):
        assert roofline_curves([], None) == []


class TestTables:
    def test_a_row_for_each_kind(self):
        head, *rows = ceilings_table(ROWS)
        assert head == ["what", "1 core", "quartiles", "2 cores", "quartiles", "what it means"]
        found = {row[0]: row[1:] for row in rows}
        assert found["products n × n, float32"][:4] == ["128 GFLOP/s", "115 – 141", "256 GFLOP/s", "230 – 282"]
        assert "n = 16 / 64 / 1024: 4 / 16 / 256 (2 cores)" in found["products n × n, float32"][4]
        assert found["products n × n, float32, bf16 inside"] == ["", "", "", "", "not here"]
        inside = [replace(row, name=INSIDE, why="in float32" if row.size < 99 else "") for row in ROWS[:3]]
        assert ceilings_table(inside)[1][-1].endswith("2 / 8 / 128; in float32: n = 16, 64")
        assert found["memory beyond"][0] == "8 GB/s"
        assert "(768 MiB, less)" in found["memory beyond"][4]
        assert found["an operator, trained"][0] == "3 µs"
        assert found["Adam, fused, one large tensor"][:2] == ["2 ms", "1.8 – 2.2"]
        assert found["message, latency"][:4] == ["1.3 µs", "1.17 – 1.43", "", ""]
        assert {len(row) for row in rows} == {5 + 1}

    def test_layers_by_size_and_functions_by_their_bytes(self):
        rows = [
            *(
                ceiling("convolution", c / 2 * threads, "forward, 8 × 8", threads, c)
                for threads in (1, 2)
                for c in (4, 64)
            ),
            *(ceiling("function", 5.0 * threads, "batch norm", threads, 1 << 18) for threads in (1, 2)),
            *(ceiling("cells", None, FLOAT32, threads, 16, "not here") for threads in (1, 2)),
        ]
        found = {row[0]: row[1:] for row in ceilings_table(rows)[1:]}
        assert found["convolution, forward"][:4] == ["32 GFLOP/s", "28.8 – 35.2", "64 GFLOP/s", "57.6 – 70.4"]
        assert found["convolution, forward"][4].endswith(
            "c channels to c, 8 × 8 numbers each: 4 at 4, 64 at 64 (2 cores)"
        )
        assert found["batch norm"][::2][:2] == ["5 GB/s", "10 GB/s"]
        assert found["LSTM"] == ["", "", "", "", "not here"]

    def test_one_core_has_one_pair_of_columns(self):
        head, *_ = ceilings_table([row for row in ROWS if row.threads == 1])
        assert head == ["what", "1 core", "quartiles", "what it means"]

    def test_one_sample_has_no_quartiles(self):
        row = Ceiling(kind="operator", value=1e-6, low=1e-6, high=1e-6, samples=1)
        assert ceilings_table([row])[1][1:3] == ["1 µs", ""]

    def test_in_a_line(self):
        assert ceilings_line(ROWS) == "float32 256 GFLOP/s · bf16 256 GFLOP/s · memory 16 GB/s · 2 cores"

    def test_layers(self):
        table = layers_table(STEP, ROWS)
        head, first, relu, *_ = table.cells
        assert first == ["0", "Linear", "10", "8", "16", "3,000.0", "8", "4", "1.6 %"]
        assert relu == ["1", "ReLU", "10", "", "", "1,500.0", "", "", ""]
        assert [row[0] for row in table.cells[-2:]] == ["(loss)", "(optimizer)"]
        assert {len(row) for row in table.cells} == {len(head)}
        assert "48.84 MFLOP" in table.notes[0]

    def test_the_roof_of_few_bytes_is_the_caches(self):
        known = of(ROWS)
        few, many = Work(10, 10, 1, 0, (), 10), Work(1 << 30, 1 << 30, 1, 0, (), 1 << 30)
        assert attainable(known, STEP, few) == 160.0
        assert attainable(known, STEP, many) == 16.0
        assert attainable(of([]), STEP, few) is None


class TestPicture:
    def test_both_axes_are_logarithmic(self):
        drawn = figure(picture(*ROWS)).axes[0]
        assert (drawn.get_xscale(), drawn.get_yscale()) == ("log", "log")
        assert drawn.texts[0].get_text() == "0, 2"

    @pytest.mark.parametrize("count", range(len(ROWS) + 1))
    def test_at_every_moment(self, count):
        seen = picture(*ROWS[:count], more=[Phase(text="messages")])
        assert seen.status.startswith("messages")
        assert "epoch" not in seen.status
        figure(seen).savefig(io.BytesIO())
        assert all(curve.pack() for curve in seen.curves)
        for table in sheets.full_tables(seen):
            assert repr(table)

    def test_what_was_told_last_counts(self):
        seen = picture(ceiling("latency", 1e-6), ceiling("latency", 2e-6))
        assert sheets.table(seen)[1][1] == "2 µs"

    def test_doubts_and_remarks_stand_under_it(self):
        seen = picture(*ROWS, more=[Note(text="busy"), Note(text="kept", is_doubt=False), Ended(state="done")])
        assert sheets.full_tables(seen)[0].notes == ("kept", "⚠ busy")
        assert seen.status == ceilings_line(ROWS)
        assert "image/png" in mime_bundle(seen)

    def test_without_a_task(self):
        assert len(sheets.full_tables(picture(*ROWS, step=None))) == 1

    def test_live_it_has_no_words(self):
        assert sheets.table(picture(*ROWS))[0][-1] == "quartiles"
