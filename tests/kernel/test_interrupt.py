"""Kernel → Interrupt: the run ends cleanly, the cell fails with one line, kernel and ranks go on."""

from __future__ import annotations

import re
import time

import pytest

from cooptim_lab.ranks.attempt import ANSWER_SECONDS

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


SLOW = """%%cooptim sharded --workers 2 -o run
import time
import torch
from torch import nn

model = nn.Linear(2, 2)
data = torch.zeros(64, 2), torch.zeros(64, dtype=torch.long)


def loss(output, target):
    print("in a step", flush=True)
    {wait}
    return nn.functional.cross_entropy(output, target)
"""


def ended_after(kernel, cell: str, interrupts: int) -> tuple[float, str]:
    """Interrupt so many times, once more only where the one before did not do; the seconds that the last one took."""
    for count in range(interrupts):
        assert not kernel.wait_until(lambda: kernel.has_ended(cell), 0.5), f"it ended after {count} interrupts"
        kernel.manager.interrupt_kernel()
    began = time.monotonic()
    reply = kernel.finish(cell, SOON).reply
    assert reply["status"] == "error"
    return time.monotonic() - began, "\n".join(reply["traceback"])


def test_a_step_that_does_not_end_is_left_at_the_second_interrupt(kernel):
    before = rank_pids(kernel)
    kernel.run("%%cooptim ranks\nkept = 'kept'")
    cell = kernel.begin(SLOW.format(wait="time.sleep(1000)"))
    assert kernel.wait_until(lambda: "in a step" in kernel.printed_by(cell))
    _, said = ended_after(kernel, cell, 2)
    assert re.fullmatch(r"KeyboardInterrupt: run \S+ was stopped", said)
    assert rank_pids(kernel) == before
    assert kernel.run("%%cooptim ranks\nkept").text == "[0] 'kept'\n[1] 'kept'\n"


def test_a_call_that_python_cannot_leave_is_ended_at_the_third(kernel):
    before = rank_pids(kernel)
    cell = kernel.begin(SLOW.format(wait="from mpi4py import MPI; MPI.COMM_WORLD.recv(tag=77)"))
    assert kernel.wait_until(lambda: "in a step" in kernel.printed_by(cell))
    seconds, said = ended_after(kernel, cell, 3)
    assert seconds < ANSWER_SECONDS
    assert re.fullmatch(r"KeyboardInterrupt: run \S+ was stopped; all ranks are replaced, and names .* are lost", said)
    assert set(rank_pids(kernel)).isdisjoint(before)


def test_ranks_in_a_call_that_will_never_end_are_replaced_and_the_cell_says_so(kernel):
    before = rank_pids(kernel)
    cell = kernel.begin("%%cooptim ranks\nprint('in', flush=True)\ncomm.recv(source=1 - rank)")
    assert kernel.wait_until(lambda: kernel.printed_by(cell).count("in") == 2)
    seconds, said = ended_after(kernel, cell, 1)
    assert seconds < 2 * ANSWER_SECONDS
    assert "did not answer; all ranks are replaced, and names that cells have left in them are lost" in said
    assert said.startswith("KeyboardInterrupt: run ")
    assert set(rank_pids(kernel)).isdisjoint(before)


def test_interrupts_in_quick_succession_leave_a_kernel_that_works(kernel):
    for _ in range(3):
        cell = kernel.begin("%cooptim subnets --epochs 100000 -n 2 -o run")
        assert kernel.wait_until(kernel.is_training)
        for _ in range(5):
            kernel.manager.interrupt_kernel()
            time.sleep(0.01)
        assert kernel.finish(cell, SOON).reply["status"] == "error"
        assert kernel.run("print(run.state)").text in ("stopped\n", "failed\n")
    assert len(rank_pids(kernel)) == 2
