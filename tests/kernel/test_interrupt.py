"""Kernel → Interrupt: the run ends cleanly, the cell fails with one line, kernel and ranks go on."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.mpi
SOON = 30
"""Seconds that an interrupt may take on a loaded machine; it usually takes one step of training."""


def rank_pids(kernel) -> list[str]:
    return kernel.run("%%cooptim ranks\nimport os\nos.getpid()").text.splitlines()


def interrupted(kernel, cell: str):
    """Interrupts the running cell; it must fail with one line, soon. Returns that line."""
    kernel.manager.interrupt_kernel()
    reply = kernel.finish(cell, SOON).reply
    assert reply["status"] == "error"
    assert reply["ename"] in ("Interrupted", "KeyboardInterrupt")
    (line,) = reply["traceback"]
    assert line.startswith("KeyboardInterrupt: run ")
    assert "\n" not in line
    return line


def test_a_training(kernel):
    before = rank_pids(kernel)
    cell = kernel.begin("%cooptim subnets --epochs 100000 -n 2 -o run")
    assert kernel.wait_until(kernel.is_training)
    assert not kernel.has_ended(cell)
    assert interrupted(kernel, cell).endswith("was stopped; what was trained is kept")
    assert kernel.run("print(run.state, run.result.state, run.result.steps > 0)").text == "stopped stopped True\n"
    assert kernel.run("%cooptim sharded --epochs 1 -o run\nprint(run.state)").text.endswith("done\n")
    assert rank_pids(kernel) == before


def test_a_loop_on_the_ranks(kernel):
    before = rank_pids(kernel)
    cell = kernel.begin("%%cooptim ranks\nprint('going')\nkept = 'kept'\nwhile True:\n    pass")
    assert kernel.wait_until(lambda: kernel.printed_by(cell).count("going") == 2)
    assert interrupted(kernel, cell).endswith("was stopped")
    assert kernel.run("%%cooptim ranks\nkept").text == "[0] 'kept'\n[1] 'kept'\n"
    assert rank_pids(kernel) == before


def test_a_study(kernel):
    cell = kernel.begin("%cooptim speedup sharded --workers 1 --repeats 100000 --epochs 1 -o study")
    assert kernel.wait_until(lambda: any(len(state.get("table", ())) > 2 for state in kernel.widget_states()))
    interrupted(kernel, cell)
    assert kernel.run("print(study.state, [row.way for row in study.result])").text == (
        "stopped ['baseline', 'sharded']\n"
    )
