"""What ranks print arrives as whole lines, in order, complete, and before the run has ended.

What has no end yet is seen as it is.
"""

from __future__ import annotations

import os
import sys
import time

import pytest

from cooptim_lab import LabError, RankPool
from cooptim_lab.runs.events import Ended, Output, Unfinished
from tests.support import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.mpi


def printed(run, rank, stream="stdout"):
    events = [e for e in run.log.since(0) if isinstance(e, Output) and (e.rank, e.stream) == (rank, stream)]
    assert all(event.text.endswith("\n") for event in events), "a torn line"
    return "".join(event.text for event in events)


def test_every_line_of_every_rank(pool, submit):
    def program(context):
        for i in range(2000):
            print(f"{context.rank}: line {i}")

    run = submit(pool, program)
    run.wait(PATIENCE_SECONDS)
    for rank in (0, 1):
        assert printed(run, rank) == "".join(f"{rank}: line {i}\n" for i in range(2000))
    assert isinstance(run.log.since(0)[-1], Ended)


def test_a_megabyte_on_stderr_blocks_nobody(pool, submit):
    def program(context):
        for i in range(10_000):
            sys.stderr.write(f"{i:07} {'x' * 91}\n")
        context.comm.Barrier()

    run = submit(pool, program)
    run.wait(PATIENCE_SECONDS)
    for rank in (0, 1):
        assert printed(run, rank, "stderr") == "".join(f"{i:07} {'x' * 91}\n" for i in range(10_000))
        assert printed(run, rank) == ""


def test_a_character_that_is_split_over_two_writes_is_one(pool, submit):
    def program(context):
        for byte in "Σ θ_i 梯度\n".encode():
            os.write(1, bytes([byte]))
            time.sleep(0.002)

    run = submit(pool, program, workers=1)
    run.wait(PATIENCE_SECONDS)
    assert printed(run, 0) == "Σ θ_i 梯度\n"


def test_what_c_and_children_print_is_there_too(pool, submit):
    def program(context):
        import ctypes
        import subprocess

        ctypes.CDLL(None).puts(b"from C")
        subprocess.run(["echo", "from a child"], check=True)

    run = submit(pool, program, workers=1)
    run.wait(PATIENCE_SECONDS)
    assert sorted(printed(run, 0).splitlines()) == ["from C", "from a child"]


def test_a_line_without_an_end_is_given_one_and_stays_with_its_run(pool, submit):
    def program(context, text):
        print(text, end="")

    first, second = (submit(pool, program, workers=1, text=text) for text in ("first", "second"))
    second.wait(PATIENCE_SECONDS)
    assert (printed(first, 0), printed(second, 0)) == ("first\n", "second\n")


def test_what_has_no_end_is_there_while_it_grows(pool, submit, tmp_path):
    def program(context, seen):
        import time

        print("a", end="", flush=True)
        print("\r 1%\r 2%", end="", file=sys.stderr, flush=True)
        while not seen.exists():
            time.sleep(0.01)
        print("b")

    run = submit(pool, program, seen=tmp_path / "seen")

    def lines():
        return [(event.rank, event.stream, event.text) for event in run.log.unfinished()]

    assert wait_until(lambda: len(lines()) == 4)
    assert lines() == [(rank, *line) for rank in (0, 1) for line in (("stderr", " 2%"), ("stdout", "a"))]
    (tmp_path / "seen").touch()
    run.wait(PATIENCE_SECONDS)
    assert lines() == []
    assert [(printed(run, rank), printed(run, rank, "stderr")) for rank in (0, 1)] == [("ab\n", " 2%\n")] * 2


def test_a_bar_is_drawn_live_and_printed_once(pool, submit):
    def program(context):
        import time

        for i in range(201):
            print(f"\r{i / 2:5.1f}%", end="", flush=True)
            time.sleep(0.005)
        print()

    run, seen = submit(pool, program), []
    run.log.listen(lambda event: seen.append(event) if isinstance(event, Unfinished) else None)
    run.wait(PATIENCE_SECONDS)
    for rank in (0, 1):
        assert printed(run, rank) == "100.0%\n"
        assert 3 < len([event for event in seen if event.rank == rank]) < 100


def test_thirty_megabytes_in_a_line_take_no_time(pool, submit):
    def program(context):
        print("x" * 30_000_000)

    pool.run(lambda context: None, workers=1)
    began = time.monotonic()
    run = submit(pool, program, workers=1)
    run.wait(PATIENCE_SECONDS)
    assert len(printed(run, 0)) == 30_000_001
    assert time.monotonic() - began < 2


def test_what_those_had_begun_to_print_who_are_ended_for_another_stays(submit, nothing_left):
    def program(context):
        print("half", end="", flush=True)
        time.sleep(0.3)
        if context.rank:
            os.kill(os.getpid(), 9)
        context.comm.recv()

    with RankPool(2) as own:
        own.start()
        nothing_left()
        run = submit(own, program)
        with pytest.raises(LabError):
            run.wait(PATIENCE_SECONDS)
        assert [printed(run, rank) for rank in (0, 1)] == ["half\n", "half\n"]


SPAWNED = """
import sys, time
from mpi4py import MPI
print("from a spawned process")
MPI.Comm.Get_parent().Disconnect()
time.sleep(0.1)
print("and its last words", end="" if "torn" in sys.argv else None)
"""


def spawn(context, file, given):
    from mpi4py import MPI

    MPI.COMM_SELF.Spawn(sys.executable, [str(file), *given]).Disconnect()


def test_what_mpi_starts_prints_as_nobody_and_to_the_end(submit, nothing_left, tmp_path):
    file = tmp_path / "spawned.py"
    file.write_text(SPAWNED)
    with RankPool(1) as own:
        for given in ((), ("torn",)):
            run = submit(own, spawn, workers=1, file=file, given=given)
            run.wait(PATIENCE_SECONDS)
            nothing_left()
            assert printed(run, None) == "from a spawned process\nand its last words\n"
            assert printed(run, 0) == ""


def test_bad_news_about_what_mpi_starts_is_not_its_output(submit, nothing_left):
    def program(context):
        from mpi4py import MPI

        code = "from mpi4py import MPI; print('here', flush=True); import os; os.kill(os.getpid(), 9)"
        MPI.COMM_SELF.Spawn(sys.executable, ["-c", code])
        context.comm.recv(source=0)

    with RankPool(1) as own:
        own.start()
        nothing_left()
        run = submit(own, program, workers=1)
        with pytest.raises(LabError):
            run.wait(PATIENCE_SECONDS)
        assert printed(run, None) == "here\n"
