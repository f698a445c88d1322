"""Several runs beside each other: the rows of `compare` and `measure_speedup`, as they come and when stopped."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest

from cooptim_lab import RunStopped, compare, measure_speedup
from cooptim_lab.runs import store
from cooptim_lab.runs.events import Ended, Measured, Note, Phase, Points, Progress, Started
from tests.support import PATIENCE_SECONDS, refused, wait_until

pytestmark = pytest.mark.mpi
ENDLESS = 1_000_000  # epochs: ends only by being stopped


def of(run, kind):
    return [event for event in run.log.since(0) if isinstance(event, kind)]


@pytest.fixture(scope="module")
def compared(pool, calm):
    """A finished `compare` of two rounds."""
    run = compare(pool=pool, epochs=2, repeats=2)
    run.wait(PATIENCE_SECONDS)
    return run


class TestCompare:
    def test_three_rows_the_baseline_first(self, compared):
        rows = compared.result
        assert [row.way for row in rows] == ["baseline", "subnets", "sharded"]
        assert [row.title for row in rows] == ["as it is", "4 sub-networks", "2 shards, server"]
        assert [row.workers for row in rows] == [1, 2, 2]
        assert (rows[0].ratio, rows[0].low, rows[0].high) == (1, 1, 1)
        assert all(row.interval[0] <= row.speedup <= row.interval[1] for row in rows if row.is_measured)
        assert {row.baseline_seconds for row in rows} == {rows[0].seconds}
        assert all(row.seconds > 0 and row.repeats == 2 and row.parameters > 0 for row in rows)
        assert compared.state == "done"

    def test_begins_with_started_and_ends_with_ended(self, compared):
        events = compared.log.since(0)
        assert isinstance(events[0], Started)
        assert events[0].way == "compare"
        assert [i for i, event in enumerate(events) if isinstance(event, Ended)] == [len(events) - 1]

    def test_a_row_is_measured_after_each_training(self, compared):
        assert [event.row["way"] for event in of(compared, Measured)] == ["baseline", "subnets", "sharded"] * 2
        assert [event.row["repeats"] for event in of(compared, Measured)] == [1, 1, 1, 2, 2, 2]
        rounds = [event.text for event in of(compared, Phase) if event.text.startswith("round")]
        assert rounds[0] == "round 1 of 2: as it is"
        assert rounds[-1] == "round 2 of 2: as it is"
        assert len(rounds) == 6

    def test_curves_are_of_the_first_round_only(self, compared):
        curves = defaultdict(list)
        for event in of(compared, Points):
            curves[event.curve].extend(event.x)
        assert sorted(curves) == [
            f"{title} · held-out loss" for title in ("2 shards, server", "4 sub-networks", "as it is")
        ]
        for x in curves.values():
            assert x == sorted(set(x)), "a second round was drawn over the first"
            assert max(x) == 2

    def test_progress_is_of_the_whole(self, compared):
        done = [(event.done, event.total) for event in of(compared, Progress) if event.rank is None]
        assert {total for _, total in done} == {6000}
        assert done == sorted(done)
        assert done[-1][0] == 6000

    def test_the_confidence_of_its_range_is_said(self, compared):
        assert of(compared, Note)[-1].text == "the range of 2 rounds holds the true median with probability 0.50"

    def test_is_one_record(self, compared):
        record = store.load(compared.id)
        assert record.state == "done"
        assert len(record.events) == len(compared.log.since(0))
        assert [row["way"] for row in record.events[-1].summary["rows"]] == ["baseline", "subnets", "sharded"]
        assert compared.id in {kept.id for kept in store.records()}
        json.dumps(record.options)


class TestSpeedup:
    def test_a_row_for_each_number_of_workers(self, pool):
        run = measure_speedup(way="sharded", workers=(2, 1, 2), repeats=2, epochs=1, pool=pool)
        rows = run.wait(PATIENCE_SECONDS)
        assert [(row.way, row.workers) for row in rows] == [("baseline", 1), ("sharded", 1), ("sharded", 2)]
        assert [row.title for row in rows] == ["as it is", "sharded, 1 worker", "sharded, 2 workers"]
        assert all(row.low <= row.speedup <= row.high for row in rows)
        assert len(of(run, Measured)) == 6
        assert run.title == "speedup sharded: digits"

    def test_subnets(self, pool):
        rows = measure_speedup(way="subnets", workers=(2,), subnets=2, repeats=1, epochs=1, pool=pool).wait(
            PATIENCE_SECONDS
        )
        assert [row.way for row in rows] == ["baseline", "subnets"]

    def test_refusals(self, pool):
        with refused("'shards'", "choose subnets or sharded"):
            measure_speedup(way="shards", pool=pool)
        with refused("workers = 5", "only 4 sub-networks", "-n 5"):
            measure_speedup(way="subnets", workers=(1, 5), pool=pool)
        with refused("workers = 0", "1 or more"):
            measure_speedup(way="sharded", workers=(0,), pool=pool)
        with refused("no option worker", "did you mean workers?"):
            measure_speedup(way="sharded", worker=(1,), pool=pool)
        with refused("repeats = 0", "1 or more"):
            compare(repeats=0, pool=pool)


class TestStop:
    def test_rows_come_while_it_goes_on_and_are_kept(self, pool):
        run = measure_speedup(way="sharded", workers=(1,), repeats=10_000, epochs=1, pool=pool)
        assert wait_until(lambda: len(of(run, Measured)) >= 2)
        assert not run.ended, "the rows came only at the end"
        run.stop()
        rows = run.wait(PATIENCE_SECONDS)
        assert run.state == "stopped"
        assert [row.way for row in rows] == ["baseline", "sharded"]
        last = {event.row["title"]: event.row["repeats"] for event in of(run, Measured)}
        assert {row.title: row.repeats for row in rows} == last
        assert store.load(run.id).state == "stopped"

    def test_nothing_measured_nothing_kept(self, pool):
        run = compare(epochs=ENDLESS, pool=pool)
        assert wait_until(lambda: of(run, Progress))
        run.stop()
        with pytest.raises(RunStopped, match=f"run {run.id} was stopped before it had a result"):
            run.wait(PATIENCE_SECONDS)
        assert run.state == "stopped"
        assert run.error is None

    def test_the_next_study_finds_the_ranks_as_they_were(self, pool):
        before = [row["pid"] for row in pool.status()]
        run = compare(epochs=ENDLESS, pool=pool)
        assert wait_until(lambda: of(run, Points))
        run.stop()
        assert run.join(PATIENCE_SECONDS)
        assert len(compare(epochs=1, pool=pool).wait(PATIENCE_SECONDS)) == 3
        assert [row["pid"] for row in pool.status()] == before

    def test_a_failing_task_ends_the_study(self, pool):
        from cooptim_lab import Task

        def no_model():
            raise LookupError("no weights here")

        run = compare(Task(model=no_model, data=([[0.0], [1.0], [2.0]] * 9, [0, 1, 0] * 9)), pool=pool, epochs=1)
        assert run.join(PATIENCE_SECONDS)
        assert run.state == "failed"
        assert "no weights here" in str(run.error)
