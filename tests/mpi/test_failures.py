"""A rank that raises, dies or hangs: the run names it, the pool is whole again, nothing is left."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import time

import psutil
import pytest

from cooptim_lab import InputError, RankFailure, RankPool, RunStopped
from cooptim_lab.runs.events import Note, Output, Phase
from tests.support import GONE_SECONDS, PATIENCE_SECONDS, rank_processes, wait_until

pytestmark = pytest.mark.mpi


@pytest.fixture(scope="module")
def frail():
    """A pool of this module's own: its ranks do not survive their tests."""
    with RankPool(2) as ranks:
        yield ranks


@pytest.fixture
def whole(frail):
    """The pool, and after the test: two ranks that work, and nothing that is left of others."""
    frail.run(lambda context: None)
    before = tree(frail)
    yield frail
    assert frail.run(lambda context: context.comm.allgather(context.rank)) == [[0, 1]] * 2
    gone = before - tree(frail)
    assert wait_until(lambda: gone.isdisjoint(rank_processes()), GONE_SECONDS), f"left behind: {gone}"


def tree(pool):
    """The processes of a pool: ranks, launcher, guard."""
    ranks = [psutil.Process(pid) for pid in pids(pool)]
    return {process.pid for rank in ranks for process in (rank, *rank.parents())} & rank_processes()


def pids(pool):
    return [row["pid"] for row in pool.status()]


def raise_in(context, who, error):
    if context.rank == who:
        time.sleep(0.2)  # the others are in the barrier by then
        raise error
    context.comm.Barrier()


def test_a_rank_that_raises_is_named_with_its_traceback_while_others_wait_in_mpi(whole):
    def deep(context):
        raise_in(context, 1, ZeroDivisionError("here"))

    with pytest.raises(RankFailure) as caught:
        whole.run(deep)
    failure = caught.value
    assert (failure.rank, failure.host) == (1, socket.gethostname())
    # The other rank sits in a barrier that cannot be interrupted: that it was replaced is said too.
    assert failure.message.startswith("ZeroDivisionError: here; a rank did not answer; all ranks are replaced")
    assert str(failure) == f"rank 1 on {failure.host}: {failure.message}"
    assert "in deep" in failure.remote_traceback
    assert failure.remote_traceback.rstrip().endswith("ZeroDivisionError: here")
    shown = failure._render_traceback_()
    assert shown[-1] == f"RankFailure: {failure}"
    assert "\n".join(shown[:-1]) == failure.remote_traceback.rstrip()


def test_an_input_error_of_one_rank_while_others_wait_in_mpi_is_an_input_error(whole):
    with pytest.raises(InputError, match="give another"):
        whole.run(raise_in, who=0, error=InputError("give another"))


def test_when_all_raise_at_once_the_ranks_stay(whole):
    def program(context):
        raise ValueError(f"from {context.rank}")

    before = pids(whole)
    for _ in range(10):
        with pytest.raises(RankFailure, match=r"ValueError: from [01]"):
            whole.run(program)
    assert whole.run(lambda context: os.getpid()) == before


@pytest.mark.parametrize(
    ("name", "end", "said"),
    [
        ("kill", lambda: os.kill(os.getpid(), signal.SIGKILL), "killed"),
        ("segfault", lambda: ctypes.string_at(0), "SIGSEGV"),
        ("exit", lambda: os._exit(3), ""),
    ],
)
def test_a_rank_that_dies_is_named(whole, submit, name, end, said):
    def program(context, end):
        print(f"last words of rank {context.rank}", flush=True)
        context.comm.Barrier()
        if context.rank == 1:
            end()
        time.sleep(3600)

    run = submit(whole, program, end=end)
    with pytest.raises(RankFailure) as caught:
        run.wait(PATIENCE_SECONDS)
    assert caught.value.rank == 1
    assert caught.value.remote_traceback is None
    assert said in caught.value.message
    printed = "".join(event.text for event in run.log.since(0) if isinstance(event, Output) and event.rank == 1)
    assert "last words of rank 1\n" in printed
    assert ("Segmentation fault" in printed) == (name == "segfault")  # with the traceback of where it was


def test_a_rank_that_died_is_named_before_one_that_raised_for_it(whole):
    def program(context):
        if context.rank == 0:
            context.comm.Barrier()  # the other is where an interrupt will end it
            raise ZeroDivisionError("of garbage")
        try:
            context.comm.Barrier()
            time.sleep(3600)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RankFailure) as caught:
        whole.run(program)
    assert (caught.value.rank, caught.value.remote_traceback) == (1, None)
    assert "was killed" in caught.value.message
    assert "; rank 0 raised ZeroDivisionError: of garbage; all ranks" in caught.value.message


def test_a_rescue_that_raises_fails_its_run_and_not_the_pool(whole, submit):
    def rescue(error):
        raise OSError("no room")

    run = submit(whole, raise_in, who=0, error=ZeroDivisionError(), rescue=rescue)
    with pytest.raises(OSError, match="no room"):
        run.wait(PATIENCE_SECONDS)


def test_ranks_that_die_while_idle_are_replaced(whole):
    before = pids(whole)
    os.kill(before[0], signal.SIGKILL)
    assert wait_until(lambda: not whole.status(), GONE_SECONDS)
    assert not set(whole.run(lambda context: os.getpid())) & set(before)


def endless(context):
    context.report(Phase(rank=context.rank, text="looping"))
    while True:
        pass


def test_two_stops_interrupt_an_endless_loop_and_keep_the_ranks(whole, submit, hear):
    before = pids(whole)
    run = submit(whole, endless)
    hear(run, Phase, 2)
    run.stop()
    run.stop()
    with pytest.raises(RunStopped):
        run.wait(PATIENCE_SECONDS)
    assert run.state == "stopped"
    assert whole.run(lambda context: os.getpid()) == before


def test_one_stop_interrupts_what_does_not_look_for_it(whole, submit, hear):
    before = pids(whole)
    run = submit(whole, endless, is_cooperative=False)
    hear(run, Phase, 2)
    run.stop()
    with pytest.raises(RunStopped):
        run.wait(PATIENCE_SECONDS)
    assert whole.run(lambda context: os.getpid()) == before


def test_one_stop_is_a_wish_that_every_rank_sees(whole, submit, hear):
    def program(context):
        context.report(Phase(rank=context.rank, text="looping"))
        while not context.stopping():
            time.sleep(0.01)
        return context.rank

    run = submit(whole, program)
    hear(run, Phase, 2)
    run.stop()
    assert run.wait(PATIENCE_SECONDS) == [0, 1]
    assert run.state == "stopped"


def test_a_stop_is_for_its_own_job_only(whole, submit, hear):
    first = submit(whole, endless)
    second = submit(whole, lambda context: context.stopping())
    hear(first, Phase, 2)
    first.stop()
    first.stop()
    assert first.join(PATIENCE_SECONDS)
    assert second.wait(PATIENCE_SECONDS) == [False, False]


def test_a_job_that_is_stopped_while_it_waits_never_runs(whole, submit, hear):
    first = submit(whole, endless)
    second = submit(whole, lambda context: context.report(Note(rank=context.rank, text="it ran")))
    hear(first, Phase, 2)
    second.stop()
    first.stop()
    first.stop()
    with pytest.raises(RunStopped):
        second.wait(PATIENCE_SECONDS)
    assert not any(isinstance(event, Note) and event.text == "it ran" for event in second.log.since(0))


def test_three_stops_end_the_ranks(whole, submit, hear):
    def program(context):
        context.report(Phase(rank=context.rank, text="deaf"))
        while True:
            try:
                time.sleep(3600)
            except KeyboardInterrupt:
                continue

    before = pids(whole)
    run = submit(whole, program)
    hear(run, Phase, 2)
    for _ in range(3):
        run.stop()
    with pytest.raises(RunStopped):
        run.wait(PATIENCE_SECONDS)
    assert not set(whole.run(lambda context: os.getpid())) & set(before)
