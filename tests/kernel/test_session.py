"""What a kernel is spared, and what a failing cell means for those behind it."""

from __future__ import annotations

import pytest


@pytest.mark.mpi
def test_the_kernel_takes_no_part_in_training(start_kernel):
    """After all three ways it has loaded neither MPI nor torch; only the trained network itself needs torch."""
    loaded = "import sys\nprint('mpi4py.MPI' in sys.modules, 'torch' in sys.modules)"
    with start_kernel() as kernel:
        kernel.run("%cooptim compare --epochs 1 -n 2")
        kernel.run("%cooptim subnets --epochs 1 -n 2 -o run\nrun.result.summary()")
        assert kernel.run(loaded).text == "False False\n"
        kernel.run("run.result.network")
        assert kernel.run(loaded).text == "False True\n"


def test_a_mistake_stops_run_all(kernel):
    """The cells behind a failed one, already sent, are not run."""
    wrong = kernel.begin("import time\ntime.sleep(0.5)  # until both others have come\n%cooptim subnet")
    others = [kernel.begin("reached = True"), kernel.begin("%cooptim runs")]
    reply = kernel.finish(wrong).reply
    assert (reply["status"], reply["ename"]) == ("error", "UsageError")
    assert "did you mean subnets?" in reply["evalue"]
    assert [kernel.finish(other).reply["status"] for other in others] == ["aborted", "aborted"]
    assert kernel.run("print('reached' in globals())").text == "False\n"


def test_a_mistake_is_one_line(kernel):
    outcome = kernel.finish(kernel.begin("%cooptim sharded --workers 0"))
    assert outcome.reply["ename"] == "UsageError"
    assert outcome.text == "UsageError: --workers = 0: must be 1 or more\n"
    assert "error" not in [m["msg_type"] for m in outcome.messages], "a traceback would be shown"


@pytest.mark.mpi
def test_a_failing_rank_fails_the_cell_with_its_own_traceback(kernel):
    outcome = kernel.finish(kernel.begin("%%cooptim ranks\nimport math\nmath.sqrt(-1 - rank)"))
    assert outcome.reply["ename"] == "RankFailure"
    shown = "\n".join(outcome.reply["traceback"])
    assert "math.sqrt(-1 - rank)" in shown
    assert "pool.py" not in shown
    assert outcome.reply["traceback"][-1].startswith("RankFailure: rank ")


@pytest.mark.mpi
def test_output_of_a_background_run_stays_out_of_other_cells(kernel):
    kernel.run("%%cooptim ranks --bg -o run\nprint('from behind')")
    outcome = kernel.run("run.wait(60)\nprint('in front')")
    assert outcome.text == "in front\n"
