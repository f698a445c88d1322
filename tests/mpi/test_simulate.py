"""A task's steps measured on real ranks, and put together to a machine that is not here.

How near that comes to real machines is a benchmark's business (tests/benchmarks/simulated.py).
"""

from __future__ import annotations

import math

import pytest
from cooptim_magics import sheets
from cooptim_magics.picture import Picture
from cooptim_magics.plots import mime_bundle

from cooptim_lab import Task
from cooptim_lab.comm import waiting
from cooptim_lab.hardware import allowed_cpus
from cooptim_lab.ranks.job import give_values
from cooptim_lab.runs.events import Note
from cooptim_lab.runs.run import Run
from cooptim_lab.scaling.here import WAYS
from cooptim_lab.studies.simulate import measure_and_simulate
from tests.support import PATIENCE_SECONDS, refused

pytestmark = pytest.mark.mpi


@pytest.fixture(scope="module")
def simulated(pool):
    run = measure_and_simulate(pool=pool, workers=(1, 2, 8), hosts=2, cores=1, link="1Gbit", repeats=2)
    run.wait(PATIENCE_SECONDS)
    return run


def test_every_way_at_every_number_of_workers(simulated):
    rows = simulated.result
    assert [(row.way, row.workers) for row in rows] == [(way, n) for n in (1, 2, 8) for way in WAYS]
    for row in rows:
        assert all(math.isfinite(number) and number > 0 for number in (row.seconds, row.low, row.high, row.alone))
        assert row.low < row.seconds < row.high
        assert sum(row.parts.values()) == pytest.approx(row.seconds, rel=1e-9)
        assert row.turns == max(1, row.workers / 2)
    assert {row.seconds for row in rows if row.workers == 1} == {rows[0].alone}, "which is measured"


def test_what_it_comes_to_is_the_same_from_the_record(simulated):
    picture = Picture.of(simulated.title, simulated.log.since(0))
    table = sheets.table(picture)
    assert [line[0] for line in table] == ["workers", "1", "2", "8"]
    picture.notes = [note for note in picture.notes if not note.startswith("busy:")]  # others may have had the CPUs
    said = "\n".join(sheets.full_table(picture).notes)
    assert "measured. All else is foretold." in said
    assert "is fastest" in said
    assert "take turns" in said
    assert set(picture.bars) == set(WAYS)
    assert "image/png" in mime_bundle(picture)


def test_sub_networks_that_cannot_be_cut_are_left_out_with_a_word(pool):
    torch = pytest.importorskip("torch")

    def model():
        return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))

    task = Task(model=model, data=(torch.randn(64, 4), torch.randint(0, 3, (64,))), name="narrow")
    run = measure_and_simulate(task, pool=pool, workers=(2, 8), cores=8, repeats=1, batch=32)
    rows = run.wait(PATIENCE_SECONDS)
    assert [row.workers for row in rows if row.way == "subnets"] == [2]
    notes = [event.text for event in run.log.since(0) if isinstance(event, Note)]
    assert any(text.startswith("8 sub-networks: ") for text in notes), notes


def test_more_workers_than_rows_are_refused_before_anything_runs(pool):
    with refused("batch = 64", "100 workers", "--batch 100"):
        measure_and_simulate(pool=pool, workers=(100,))


def spins(context):
    return waiting._Manners.spins


def test_ranks_wait_as_long_as_nobody_else_wants_the_core(pool):
    def on(workers):
        run = Run("call", {"workers": workers})
        pool.submit(run, spins, {}, workers=workers, finish=give_values)
        return set(run.wait(PATIENCE_SECONDS))

    cpus = allowed_cpus()
    assert on(cpus) == {waiting.SPINS}
    if cpus <= 4:
        assert on(2 * cpus) == {waiting.FEW_SPINS}
        assert on(cpus) == {waiting.SPINS}
