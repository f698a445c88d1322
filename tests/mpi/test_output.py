"""What ranks print arrives as whole lines, in order, complete, and before the run has ended."""

from __future__ import annotations

import os
import sys
import time

import pytest

from cooptim_lab.runs.events import Ended, Output
from tests.support import PATIENCE_SECONDS

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
