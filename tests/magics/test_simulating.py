"""A simulation as a reader has it: cells, lines, bars, curves, and sliders that ask about another machine."""

from __future__ import annotations

import pytest
from cooptim_magics import sheets
from cooptim_magics.picture import Picture
from cooptim_magics.simulating import (
    fastest,
    real_curves,
    simulation_bars,
    simulation_curves,
    simulation_line,
    simulation_notes,
    simulation_table,
)
from cooptim_magics.whatif import WhatIf

from cooptim_lab.scaling.here import WAYS, Machine
from cooptim_lab.studies.simulate import SimulateSpec, foretell
from tests.unit.test_here import FIGURES, TWO

COUNTS = [1, 2, 4, 8]


@pytest.fixture
def rows():
    return foretell(FIGURES, COUNTS, TWO, 10)


def test_a_line_for_each_number_and_a_cell_for_each_way(rows):
    head, *lines = simulation_table(rows)
    assert head == ["workers", "hosts", *WAYS, "fastest"]
    assert [line[0] for line in lines] == ["1", "2", "4", "8"]
    assert [line[1] for line in lines] == ["1", "1", "1", "2"]
    assert lines[0][2:] == ["4 ms, 1.00×"] * len(WAYS) + [""]
    assert lines[3][2] == "", "this network was not cut into 8"
    assert lines[2][-1] == "shared"


def test_the_words_say_what_is_measured_and_what_is_not(rows):
    said = "\n".join(simulation_notes(rows, FIGURES))
    assert said.startswith("As it is, a step takes 4 ms here: measured. All else is foretold.")
    best = min((row for row in rows if row.workers == 8), key=lambda row: row.seconds)
    assert f"8 workers on 2 hosts: {best.way} is fastest, {best.speedup:.2f}×" in said
    assert "reach 0.75 of the link" in said
    assert simulation_line(rows) in said
    on_one = foretell(FIGURES, COUNTS, Machine(cores=8), 10)
    assert "of the link" not in "\n".join(simulation_notes(on_one, FIGURES))


def test_where_more_make_it_slower_it_is_said():
    slow = foretell(FIGURES, COUNTS, Machine(hosts=8, cores=1, bandwidth=1e6), 10)
    by_shards = [row for row in slow if row.way == "server"]
    assert "More than 1" not in "\n".join(simulation_notes(by_shards, None)), "one worker is no way"
    said = "\n".join(simulation_notes(by_shards, None))
    assert "More than 2 workers make it slower: the fastest of all is server there" in said


def test_the_fastest_has_its_interval(rows):
    curves = simulation_curves(rows)
    assert [curve.name for curve in curves if curve.kind == "line"] == list(WAYS)
    marked = {x for curve in curves if curve.kind == "marker" for x in curve.x}
    assert marked == {2.0, 4.0, 8.0} == {float(row.workers) for row in fastest(rows)}
    for curve in curves:
        if curve.kind == "marker":
            assert all(low < y < high for low, y, high in zip(curve.lo, curve.y, curve.hi, strict=True))


def test_a_busy_machine_has_no_headline(rows):
    picture = Picture("simulate: t")
    picture.kind, picture.state, picture.simulated, picture.sampled = "simulate", "done", rows, FIGURES
    assert "is fastest" in sheets.score(picture)
    picture.notes.append("busy: other programs had 43 % of the CPUs, so little of this is true")
    assert "fastest" not in sheets.score(picture) + "".join(sheets.full_table(picture).notes)
    assert sheets.score(picture).startswith("busy:")


def test_bars_add_up_to_the_step(rows):
    bars = simulation_bars(rows)
    assert set(bars) == set(WAYS) - {"subnets"}
    for way, parts in bars.items():
        (row,) = [row for row in rows if (row.way, row.workers) == (way, 8)]
        assert sum(parts.values()) == pytest.approx(row.seconds)


def test_trainings_stand_beside_it_as_points():
    (server, local) = real_curves([("server", 4, 2e-3), ("server", 2, 3e-3), ("local", 2, 1e-3)], 6e-3)
    assert (server.name, list(server.x), list(server.y)) == ("server, trained", [2.0, 4.0], [2.0, 3.0])
    assert (local.name, list(local.y)) == ("local, trained", [6.0])


def test_sliders_ask_about_another_machine_and_measure_nothing():
    spec = SimulateSpec(hosts=2, cores=4, link="3GB/s", workers=(2, 8))
    seen = WhatIf("simulate: t", FIGURES, spec, 2, real_curves([("server", 2, 3e-3)], 4e-3))
    assert (seen.hosts.value, seen.cores.value, seen.link.value) == (2, 4, "3GB/s")
    assert [row.hosts for row in seen.rows if row.way == "server"] == [1, 2]
    drawn, written = seen.plot.value, seen.table.value
    assert "promises too much" not in written
    seen.link.value = "100Mbit"
    assert seen.plot.value != drawn
    assert seen.table.value != written
    seen.cores.value = 1
    assert max(row.turns for row in seen.rows) == 4
    assert "was not measured: this promises too much" in seen.table.value
    assert all(control.tooltip for control in (seen.hosts, seen.cores, seen.link))
