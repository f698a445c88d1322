"""A real measurement, short, on real ranks; how fast the machine is decides nothing."""

from __future__ import annotations

import math

import pytest
from cooptim_magics import sheets
from cooptim_magics.picture import Picture
from cooptim_magics.plots import mime_bundle

from cooptim_lab import measure_ceilings
from cooptim_lab.costs import known
from cooptim_lab.costs.work import Step
from cooptim_lab.hardware.ceilings import FLOAT32, UNITS
from cooptim_lab.runs import store
from cooptim_lab.runs.events import Counted, Gauged, Phase, Progress
from tests.support import PATIENCE_SECONDS

pytestmark = pytest.mark.mpi


def of(run, kind):
    return [event for event in run.log.since(0) if isinstance(event, kind)]


@pytest.fixture(scope="module")
def measured(pool):
    run = measure_ceilings(pool=pool, seconds=0.2, again=True)
    run.wait(PATIENCE_SECONDS)
    return run


def test_every_figure_is_one_or_says_why(measured):
    found = measured.result
    assert {row.kind for row in found.rows} == set(UNITS)
    assert {row.threads for row in found.rows} == {1, found.cpus}
    for row in found.rows:
        if row.value is None:
            assert row.why, row
        else:
            assert 0 < row.low <= row.value <= row.high < math.inf, row
    assert found.rate(64).value > 0
    assert found.one("latency") < 0.1
    assert len({row.key for row in found.rows}) == len(found.rows)


def test_the_tasks_step_is_counted(measured):
    (event,) = of(measured, Counted)
    step = Step.from_summary(event.step)
    once = 2 * 64 * 64 * 64
    assert [layer.forward.operations for layer in step.layers] == [once, 0, once, 0, 2 * 64 * 64 * 10]
    assert step.parameters == 2 * (65 * 64) + 65 * 10
    assert step.precision == FLOAT32
    assert all(layer.seconds for layer in step.layers if layer.forward.operations)


def test_it_is_told_while_it_goes_on(measured):
    told = [event.ceiling for event in of(measured, Gauged)]
    assert len(told) > len(measured.result.rows)  # first as a sample, then whole
    assert told[0]["samples"] == 1
    done = [event.done / event.total for event in of(measured, Progress)]
    assert done == sorted(done)
    assert [event.text for event in of(measured, Phase)][-1] == "messages"


def test_kept_by_the_machines_fingerprint(measured):
    assert known.known() == measured.result


def test_the_record_tells_the_same(measured):
    record = store.load(measured.id)
    picture, kept = (Picture.of("t", events) for events in (measured.log.since(0), record.events))
    assert [table.cells for table in sheets.full_tables(kept)] == [table.cells for table in sheets.full_tables(picture)]
    assert "image/png" in mime_bundle(kept)


def test_stopped_early(pool, hear, measured):
    run = measure_ceilings(pool=pool, seconds=600, again=True)
    hear(run, Gauged, 3)
    run.stop()
    found = run.wait(PATIENCE_SECONDS)
    assert run.state == "stopped"
    assert 3 <= len(found.rows) < len(measured.result.rows)
    assert known.known() == measured.result
    assert pool.run(lambda context: context.rank) == [0, 1]
