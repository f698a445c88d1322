"""A rank that dies while nothing runs on it harms no job; one that a program ends is that job's failure.

A rank that is halted (SIGSTOP) hears of no job: killed then, it has died at rest, whatever the others have done since.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from cooptim_lab import RankFailure, RankPool, digits, train_sharded
from cooptim_lab.ranks.carrier import PASSAGES
from cooptim_lab.runs.events import Note, Output
from tests.support import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.mpi


@pytest.fixture
def pool(nothing_left):
    with RankPool(2) as pool:
        pool.start()
        nothing_left()
        yield pool
        nothing_left()


def pids(pool):
    return [row["pid"] for row in pool.status()]


def halt(pid):
    """Stop a process; it stops when the system comes round to each of its threads."""

    def is_halted():
        return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks.iterdir())

    tasks = Path(f"/proc/{pid}/task")
    os.kill(pid, signal.SIGSTOP)
    assert wait_until(is_halted)


def notes(run):
    return [event.text for event in run.log.since(0) if isinstance(event, Note)]


def printed(run):
    return sorted(event.text for event in run.log.since(0) if isinstance(event, Output))


def tell(context, file):
    print(f"rank {context.rank}", flush=True)
    is_first = not file.exists() and context.size == 1
    with file.open("a") as lines:
        lines.write(f"{context.rank}\n")
    if is_first:
        time.sleep(3600)
    return context.comm.allreduce(1)


def never(error):
    raise AssertionError("a retry was asked for")


@pytest.mark.parametrize(("workers", "victim"), [(2, 1), (2, 0), (1, 1)], ids=["one", "the first", "no part in it"])
def test_a_job_begins_again_when_a_rank_had_died_at_rest(pool, submit, tmp_path, workers, victim):
    pool.run(lambda context: None, workers=workers)
    file, before = tmp_path / "file", pids(pool)
    halt(before[victim])
    run = submit(pool, tell, workers=workers, rescue=never, file=file)
    if victim < workers:  # the others begin if their world is made already, else they wait for it
        time.sleep(0.3)
    else:
        assert wait_until(file.exists)
        time.sleep(0.1)
    has_begun = file.exists()
    assert printed(run) == []
    os.kill(before[victim], signal.SIGKILL)
    assert run.wait(PATIENCE_SECONDS) == [workers] * workers
    assert printed(run) == [f"rank {rank}\n" for rank in range(workers)]
    (note,) = notes(run)
    assert note.startswith(f"rank {victim} on ")
    assert note.endswith("the run begins again")
    assert not set(before) & set(pids(pool))
    # What was written by the first passage stays.
    assert len(file.read_text().split()) == workers + has_begun


def test_a_rank_that_is_gone_is_not_waited_for(pool):
    before = pids(pool)
    for _ in range(3):
        os.kill(pids(pool)[0], signal.SIGKILL)
        assert pool.run(lambda context: context.comm.allreduce(1)) == [2, 2]
    assert not set(before) & set(pids(pool))


def end_at_once(context, file):
    with file.open("a") as lines:
        lines.write("here\n")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_program_that_kills_its_rank_in_its_first_line_has_failed(submit, tmp_path):
    with RankPool(1) as alone:
        for count in range(1, 6):
            run = submit(alone, end_at_once, workers=1, file=tmp_path / "file")
            with pytest.raises(RankFailure, match="was killed"):
                run.wait(PATIENCE_SECONDS)
            assert not any("begins again" in text for text in notes(run))
            assert len((tmp_path / "file").read_text().split()) == count


def test_a_program_that_kills_all_ranks_ends_after_a_few(pool, submit, tmp_path):
    run = submit(pool, end_at_once, file=tmp_path / "file")
    with pytest.raises(RankFailure, match="was killed"):
        run.wait(PATIENCE_SECONDS)
    assert len((tmp_path / "file").read_text().split()) <= 2 * PASSAGES


@pytest.mark.parametrize("retries", [0, 1])
def test_a_run_with_checkpoints_spends_no_retry_on_it(pool, retries):
    victim = pids(pool)[1]
    halt(victim)
    run = train_sharded(digits(), pool=pool, workers=2, epochs=10, save_every=10, retries=retries)
    time.sleep(0.1)
    os.kill(victim, signal.SIGKILL)
    assert run.wait(PATIENCE_SECONDS).state == "done"
    assert [text for text in notes(run) if "retry" in text] == []
    assert sum("begins again" in text for text in notes(run)) == 1
