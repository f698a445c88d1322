"""Ranks that stand ready: values by rank, one job after the other, no CPU between them, growth."""

from __future__ import annotations

import os
import resource
import threading
import time

import psutil
import pytest

from cooptim_lab import InputError, PoolError, RankFailure, RankPool, Run
from cooptim_lab.ranks import rankset
from cooptim_lab.runs.events import Note, Phase
from tests.support import PATIENCE_SECONDS, rank_processes, refused, wait_until

pytestmark = pytest.mark.mpi


def pids(pool):
    return [row["pid"] for row in pool.status()]


def test_values_come_back_by_rank(pool):
    assert pool.run(lambda context, factor: context.rank * factor, factor=10) == [0, 10]
    assert pool.run(lambda context: (context.rank, context.size), workers=1) == [(0, 1)]


def test_each_rank_is_sent_its_own(pool):
    values = pool.run(
        lambda context, common, own: (context.rank, common, own), common=1, per_rank=[{"own": "a"}, {"own": "b"}]
    )
    assert values == [(0, 1, "a"), (1, 1, "b")]


def test_ranks_talk_over_mpi(pool):
    assert pool.run(lambda context: context.comm.allreduce(context.rank + 1)) == [3, 3]


def test_ranks_are_other_processes_and_stay_the_same(pool):
    first, second = (pool.run(lambda context: os.getpid()) for _ in range(2))
    assert first == second == pids(pool)
    assert os.getpid() not in first
    assert len(set(first)) == 2


def test_jobs_run_one_after_the_other_in_their_order(pool, submit):
    runs = [submit(pool, lambda context, i: context.comm.allreduce(i), i=i) for i in range(5)]
    assert pool.is_busy
    assert [run.wait(PATIENCE_SECONDS) for run in runs] == [[2 * i] * 2 for i in range(5)]


def test_what_a_rank_reports_is_in_the_log_before_the_end(pool, submit):
    def program(context):
        for i in range(50):
            context.report(Note(rank=context.rank, text=str(i)))

    run = submit(pool, program)
    run.wait(PATIENCE_SECONDS)
    for rank in (0, 1):
        assert [event.text for event in run.log.since(0) if isinstance(event, Note) and event.rank == rank] == [
            str(i) for i in range(50)
        ]
    assert run.state == "done"


def test_threads_are_shared_out(pool):
    def program(context):
        import torch

        return torch.get_num_threads() == context.threads

    assert pool.run(program) == [True, True]
    alone = pool.run(lambda context: context.threads, workers=1)[0]
    assert alone >= pool.run(lambda context: context.threads)[0] >= 1


def test_idle_ranks_use_no_cpu(pool):
    pool.run(lambda context: context.comm.Barrier())
    processes = [psutil.Process(pid) for pid in rank_processes()]

    def seconds():
        return {process.pid: sum(process.cpu_times()[:2]) for process in processes}

    time.sleep(0.5)  # threads of a parallel region spin for a fifth of a second after its end
    before = seconds()
    time.sleep(1)
    used = {f"{psutil.Process(pid).name()} {pid}": after - before[pid] for pid, after in seconds().items()}
    assert sum(used.values()) <= 0.05, used  # one spinning rank would have used up to 1


def test_status_tells_of_every_rank(pool):
    pool.run(lambda context: None)
    rows = pool.status()
    assert [(row["rank"], row["state"]) for row in rows] == [(0, "idle"), (1, "idle")]
    assert all(row["memory"] is None or row["memory"] > 1e6 for row in rows)
    assert all("MPI" in row["library"] for row in rows)


def test_a_busy_rank_is_shown_as_busy(pool, submit, hear):
    def program(context):
        context.report(Phase(rank=context.rank, text="here"))
        while not context.stopping():
            time.sleep(0.01)

    run = submit(pool, program, workers=1)
    hear(run, Phase)
    assert [row["state"] for row in pool.status()] == ["busy", "idle"]
    run.stop()
    run.wait(PATIENCE_SECONDS)
    assert run.state == "stopped"


def test_a_program_that_cannot_be_sent_is_refused(pool):
    lock = threading.Lock()
    with refused("cannot be sent", "lock"):
        pool.run(lambda context: lock)


@pytest.mark.parametrize("workers", [0, -1, 1.5, "2", True])
def test_a_pool_of_no_ranks_is_refused(workers):
    with refused(f"workers = {workers!r}", "1 or more"):
        RankPool(workers)


@pytest.mark.parametrize("workers", [0, -1])
def test_a_job_for_no_ranks_is_refused(pool, workers):
    with refused(f"workers = {workers}", "1 or more"):
        pool.run(lambda context: None, workers=workers)


def test_a_pool_grows_when_a_job_needs_more_and_leaves_nothing(nothing_left):
    with RankPool(1) as pool:
        assert pool.status() == []  # nothing is started before it is needed
        assert pool.run(lambda context: context.size) == [1]
        nothing_left()
        first = pids(pool)
        assert pool.run(lambda context: context.size, workers=2) == [2, 2]
        assert set(first).isdisjoint(pids(pool))
        assert not any(map(psutil.pid_exists, first))
        assert pool.run(lambda context: context.size) == [1]
        nothing_left()


def test_a_stopped_pool_starts_anew_and_a_closed_one_does_not(nothing_left):
    pool = RankPool(1)
    pool.start()
    nothing_left()
    first = pids(pool)
    pool.stop()
    assert pool.status() == []
    assert not psutil.pid_exists(first[0])
    assert pool.run(lambda context: os.getpid()) != first
    nothing_left()
    pool.close()
    pool.close()
    assert pool.status() == []
    with pytest.raises(PoolError, match="closed"):
        pool.run(lambda context: None)
    with pytest.raises(PoolError, match="closed"):
        pool.start()


def test_closing_ends_the_job_that_runs_and_those_that_wait(nothing_left, submit, hear):
    def program(context):
        context.report(Phase(rank=context.rank, text="here"))
        time.sleep(3600)

    pool = RankPool(1)
    running, waiting = submit(pool, program, workers=1), submit(pool, program, workers=1)
    hear(running, Phase)
    nothing_left()
    pool.close()
    for run in (running, waiting):
        assert run.join(PATIENCE_SECONDS), f"{run} goes on in a pool that was closed"
        assert run.state in ("stopped", "failed")


def test_an_input_error_on_the_ranks_is_one_here_and_keeps_them(pool):
    def program(context):
        raise InputError("give another")

    before = pids(pool)
    with refused("give another"):
        pool.run(program)
    assert pool.run(lambda context: os.getpid()) == before


def test_a_result_that_cannot_be_opened_here_fails_its_run_only(pool):
    def program(context):
        class Odd:
            def __reduce__(self):
                return (int, ("no number",))

        return Odd()

    with pytest.raises(RankFailure, match=r"rank 0 .* cannot be opened in the notebook: ValueError: .*no number"):
        pool.run(program, workers=1)
    assert pool.run(lambda context: context.rank) == [0, 1]


def test_parts_that_do_not_match_the_ranks_are_refused(pool):
    with refused("per_rank has 1 parts for 2 ranks"):
        pool.run(lambda context, x: x, per_rank=[{"x": 1}])


def test_what_is_refused_leaves_no_descriptor_open(pool):
    import numpy as np

    before = psutil.Process().num_fds()
    for _ in range(3):
        with refused("cannot be sent"):
            pool.run(lambda context, x: x, per_rank=[{"x": np.zeros(10**5)}, {"x": threading.Lock()}])
    assert psutil.Process().num_fds() <= before


def test_a_chatty_program_does_not_keep_the_clock_waiting(pool):
    def program(context):
        while True:
            context.report(Note(rank=context.rank, text="again"))

    run: Run[list[None]] = Run("chatty", {})
    run.log.listen(lambda event: time.sleep(0.0005))
    pool.submit(run, program, {}, workers=2, finish=lambda run, values, stopped: None, is_cooperative=False, timeout=1)
    with pytest.raises(PoolError, match="not done after 1 s"):
        run.wait(20)
    assert pool.run(lambda context: context.rank) == [0, 1]


def test_what_goes_wrong_on_the_pools_thread_is_told_to_the_caller(monkeypatch):
    def no_room() -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rankset, "make_directory", no_room)
    with RankPool(1) as pool:
        for _ in range(2):
            with pytest.raises(PoolError, match="No space left"):
                pool.start()
        monkeypatch.undo()
        assert pool.run(lambda context: context.rank) == [0]


def test_a_step_takes_its_memory_from_what_it_freed_and_an_idle_rank_keeps_none():
    def program(context):
        import numpy as np

        def step():
            return len([np.ones(1 << 17) for _ in range(20)])  # a megabyte each

        step()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            step()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    def much(context):
        import numpy as np

        blocks = [np.ones(1 << 17) for _ in range(100)]
        return len(blocks)

    with RankPool(2) as fresh:
        assert max(fresh.run(program)) < 256  # a page for each time would be 51,200
        before = [row["memory"] for row in fresh.status()]
        fresh.run(much)
        assert wait_until(
            lambda: all(now["memory"] < was + (20 << 20) for now, was in zip(fresh.status(), before, strict=True))
        )
