"""Many more ranks than CPUs: 64 become ready, answer, report, stop and leave. How long it takes decides nothing."""

from __future__ import annotations

import time

import pytest

from cooptim_lab import RankPool
from cooptim_lab.hardware import allowed_cpus
from cooptim_lab.ranks import launch, starting
from cooptim_lab.ranks.launch import CROWDED, SLACK_NANOSECONDS, Launch, rank_environment
from cooptim_lab.runs.events import Phase

pytestmark = pytest.mark.mpi

RANKS, REPORTS = 64, 5
READY_SECONDS = 120.0


def report(context):
    for _ in range(REPORTS):
        context.report(Phase(rank=context.rank, text="here"))
        time.sleep(0.05)
    while not context.stopping():
        time.sleep(0.05)
    return context.rank


def test_many_ranks_that_sleep_are_ready_answer_report_and_stop(nothing_left, submit, hear):
    with RankPool(RANKS) as pool:
        pool.start()
        assert pool.run(lambda context: context.rank) == list(range(RANKS))
        nothing_left()
        run = submit(pool, report, workers=RANKS)
        hear(run, Phase, REPORTS * RANKS)
        run.stop()
        assert run.wait(READY_SECONDS) == list(range(RANKS))
        by_rank = [event.rank for event in run.log.since(0) if isinstance(event, Phase) and event.rank is not None]
        assert [by_rank.count(rank) for rank in range(RANKS)] == [REPORTS] * RANKS
        slack = SLACK_NANOSECONDS * RANKS // allowed_cpus()
        if CROWDED * allowed_cpus() < RANKS:
            assert set(pool.run(lambda context: timer_slack())) == {slack}


def timer_slack():
    with open("/proc/self/timerslack_ns", encoding="ascii") as file:  # noqa: PTH123 - by value to the ranks
        return int(file.read())


@pytest.mark.parametrize(
    ("cpus", "slack"), [(2, 32 * SLACK_NANOSECONDS), (16, None), (15, 64 * SLACK_NANOSECONDS // 15)]
)
def test_sleeps_grow_longer_only_where_many_ranks_share_a_cpu(monkeypatch, cpus, slack):
    monkeypatch.setattr(launch, "allowed_cpus", lambda: cpus)
    said = rank_environment(Launch(), RANKS).get(starting.SLACK)
    assert said == (None if slack is None else str(slack))


def test_ranks_that_are_elsewhere_sleep_as_they_do():
    assert starting.SLACK not in rank_environment(Launch.parse(launcher="srun -n {workers}"), 10_000)


def test_a_launch_that_is_cut_short_while_its_ranks_wait_to_be_complete_leaves_none(nothing_left, submit, hear):
    """And the next one is complete: whoever waited has gone with its launch."""
    with RankPool(16) as pool:
        for seconds in (0.1, 0.2, 0.3):
            run = submit(pool, lambda context: None, workers=16)
            hear(run, Phase, by_ranks=False)
            time.sleep(seconds)
            run.stop()
            run.join(READY_SECONDS)
        assert pool.run(lambda context: context.comm.allreduce(1)) == [16] * 16
        nothing_left()
