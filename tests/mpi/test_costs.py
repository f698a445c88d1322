"""What a step costs by each way: α and β of real ranks, real steps; between two hosts also what crosses the link.

How near prediction and measurement are is a benchmark's business (tests/benchmarks/costs.py): here only so near that a
formula, or a unit, which is wrong is noticed.
"""

from __future__ import annotations

import math

import psutil
import pytest
from cooptim_magics import sheets
from cooptim_magics.picture import Picture
from cooptim_magics.plots import mime_bundle

from cooptim_lab import RankPool, RunStopped, Task, measure_costs
from cooptim_lab.costs.collectives import allreduce, broadcast, gather
from cooptim_lab.costs.formulas import WAYS
from cooptim_lab.costs.links import Calibration
from cooptim_lab.runs import store
from cooptim_lab.runs.events import Calibrated, Costed, Ended, Phase, Points, Progress, Started
from tests.hosts import can_make_hosts, two_hosts
from tests.support import PATIENCE_SECONDS

MEGABITS = 100


def of(run, kind):
    return [event for event in run.log.since(0) if isinstance(event, kind)]


@pytest.fixture(scope="module")
def measured(pool):
    run = measure_costs(pool=pool, workers=(2,), repeats=2, sync_every=5)
    run.wait(PATIENCE_SECONDS)
    return run


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with two_hosts(tmp_path_factory.mktemp("hosts"), MEGABITS, apart=True) as hosts:
        yield hosts


@pytest.mark.mpi
class TestOnOneHost:
    def test_a_row_for_each_way(self, measured):
        rows = measured.result
        assert [(row.way, row.workers) for row in rows] == [(way, 2) for way in WAYS]
        for row in rows:
            numbers = (row.predicted, row.exchange, row.measured, row.low, row.high)
            assert all(math.isfinite(number) and number > 0 for number in numbers)
            assert row.low <= row.measured <= row.high
            assert row.exchange < row.predicted
        assert [event.row for event in of(measured, Costed)] == [row.summary() for row in rows]
        # 64-64-64-10 in float32, and the five numbers behind it
        assert {row.bytes for row in rows} == {4 * (65 * 64 + 65 * 64 + 65 * 10 + 5)}

    def test_latency_and_bandwidth(self, measured):
        (event,) = of(measured, Calibrated)
        on = Calibration.from_summary(event.links)
        assert on.between is None
        assert 0 < on.local.alpha < 0.1
        assert on.local.beta > 1e6
        assert on.local.both > 1e6
        assert 0 < on.gamma < 1e-6

    def test_begins_and_ends_as_every_run(self, measured):
        events = measured.log.since(0)
        assert isinstance(events[0], Started)
        assert isinstance(events[-1], Ended)
        assert events[-1].state == "done"
        assert {event.curve for event in of(measured, Points)} == {*WAYS, "ring"}
        done = [event.done / event.total for event in of(measured, Progress)]
        assert done == sorted(done)
        assert done[-1] == 1

    def test_the_record_tells_the_same(self, measured):
        record = store.load(measured.id)
        picture, kept = (Picture.of("t", events) for events in (measured.log.since(0), record.events))
        assert sheets.table(picture) == sheets.table(kept)
        assert len(sheets.table(kept)) == 1 + len(WAYS)
        assert kept.links == picture.links
        assert "image/png" in mime_bundle(kept)

    def test_stopped_before_the_first_row(self, pool, hear):
        run = measure_costs(pool=pool, workers=(2,), repeats=100_000)
        hear(run, Phase, 2, by_ranks=False)
        run.stop()
        with pytest.raises(RunStopped):
            run.wait(PATIENCE_SECONDS)
        assert run.state == "stopped"
        assert pool.run(lambda context: context.rank) == [0, 1]


# Without the mark `mpi`: a container may forbid namespaces also in CI.
@pytest.mark.skipif(not can_make_hosts(), reason="network namespaces need root, iproute2 and permission")
class TestBetweenHosts:
    @pytest.mark.parametrize("places", ["{a}:1,{b}:1", "{a}:2,{b}:2", "{a}:1,{b}:3"])
    def test_what_crosses_the_link_is_what_the_formulas_count(self, hosts, places):
        size = 400_000

        def program(context, call, size):
            import numpy as np
            from mpi4py import MPI

            from cooptim_lab.comm.waiting import complete

            comm, mine, all_ = context.comm, np.zeros(size // 4, "f"), np.zeros((context.size, size // 4), "f")
            if call == "gather":
                complete(comm.Igather(mine, all_ if context.is_root else None))
            elif call == "broadcast":
                complete(comm.Ibcast(mine))
            else:
                complete(comm.Iallreduce(MPI.IN_PLACE, mine))

        def crossed():
            counters = psutil.net_io_counters(pernic=True)[hosts.device]
            return counters.bytes_sent, counters.bytes_recv

        with RankPool(hosts=places.format(a=hosts.a, b=hosts.b), launcher=hosts.launcher()) as pool:
            pool.start()
            ranks = pool.workers
            where = [0] * int(places[4]) + [1] * (ranks - int(places[4]))
            calls = {"gather": gather(ranks, size), "broadcast": broadcast(where, size)}
            calls["allreduce"] = allreduce(ranks, size)
            for call in calls:  # connections are made
                pool.run(program, call=call, size=4)
            for call, rounds in calls.items():
                before = crossed()
                pool.run(program, call=call, size=size)
                for way, (sent, now) in enumerate(zip(before, crossed(), strict=True)):
                    messages = [m for one in rounds for m in one.messages]
                    counted = sum(n for r, to, n in messages if (where[r], where[to]) == (way, 1 - way))
                    # headers, answers, and what is said between pool and ranks
                    assert counted < now - sent < 1.1 * counted + 0.1 * size, (call, way)

    @pytest.mark.parametrize(("places", "ranks"), [("{a}:1,{b}:1", 2), ("{a}:2,{b}:2", 4)])
    def test_predicted_and_measured(self, hosts, places, ranks):
        def model():
            from torch import nn

            return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))

        def data():
            import torch

            return torch.randn(512, 64), torch.arange(512) % 10

        with RankPool(hosts=places.format(a=hosts.a, b=hosts.b), launcher=hosts.launcher()) as pool:
            task = Task(model=model, data=data, name="wide")
            run = measure_costs(task, pool=pool, workers=(ranks,), repeats=1)
            rows = run.wait(PATIENCE_SECONDS)
        (event,) = of(run, Calibrated)
        on = Calibration.from_summary(event.links)
        assert on.between.beta > 0
        assert (on.local is None) == (ranks == 2)
        assert [row.way for row in rows] == list(WAYS)
        for row in rows:  # how near they are is for the benchmark to say
            assert row.exchange > 0
            assert row.predicted > 0
            assert row.measured > 0
