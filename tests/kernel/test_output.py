"""What ranks print under a cell of a real kernel: at once, as in a terminal, and cheaply however much it is."""

from __future__ import annotations

import re
import statistics
import time

import pytest
from cooptim_magics.view import PRINT_SECONDS, REFRESH_SECONDS

pytestmark = pytest.mark.mpi

BAR = """%%cooptim ranks
import sys, time

for i in range(51):
    sys.stderr.write(f"\\r{2 * i:3}%|{'#' * (i // 5):10}|")
    sys.stderr.flush()
    time.sleep(0.02)
print(file=sys.stderr)
"""


def live(kernel, cell):
    """The states of the text that is replaced, in order."""
    kinds = ("display_data", "update_display_data")
    shown = [m["content"] for m in kernel.published_by(cell) if m["msg_type"] in kinds]
    return [content["data"]["text/plain"] for content in shown]


def streams(outcome):
    return [message for message in outcome.messages if message["msg_type"] == "stream"]


def test_a_bar_moves_and_is_printed_once(kernel):
    cell = kernel.begin(BAR)
    assert kernel.wait_until(lambda: len(live(kernel, cell)) > 2)
    assert not kernel.has_ended(cell)
    outcome = kernel.finish(cell)
    assert sorted(outcome.text.splitlines()) == [f"[{rank}] 100%|##########|" for rank in (0, 1)]
    assert {message["content"]["name"] for message in streams(outcome)} == {"stderr"}
    states = live(kernel, cell)
    assert states[-1] == ""
    assert any(re.fullmatch(r"\[0\] +\d+%\|#+ *\|\n\[1\] +\d+%\|#+ *\|", state) for state in states)
    assert len(states) < 30  # of 51


def test_what_has_no_end_is_shown_and_printed_when_the_program_ends(kernel):
    cell = kernel.begin("%%cooptim ranks --only 0\nimport time\nprint('a', end='', flush=True)\ntime.sleep(0.5)")
    assert kernel.wait_until(lambda: live(kernel, cell) == ["[0] a"])
    assert not kernel.printed_by(cell)
    assert kernel.finish(cell).text == "[0] a\n"
    assert live(kernel, cell)[-1] == ""


def test_lines_end_where_they_end(kernel):
    said = "one\\x0b\\x0c\\x1c\\x85\\u2028line"
    assert kernel.run(f'%%cooptim ranks --only 1\nprint("{said}")').text == "[1] one\x0b\x0c\x1c\x85\u2028line\n"


def test_a_line_is_there_at_once(kernel):
    outcome = kernel.run(
        "%%cooptim ranks --workers 1\nimport time\n"
        "for _ in range(15):\n    print(time.time(), flush=True)\n    time.sleep(0.137)"
    )
    late = [
        message["header"]["date"].timestamp() - float(line.removeprefix("[0] "))
        for message in streams(outcome)
        for line in message["content"]["text"].splitlines()
    ]
    assert len(late) == 15
    assert statistics.median(late) < REFRESH_SECONDS / 4  # on the average it was half of that, and a kernel's pause


def test_a_flood_is_printed_in_lumps(kernel):
    began = time.monotonic()
    outcome = kernel.run("%%cooptim ranks\nfor i in range(100_000):\n    print(i)")
    lasted = time.monotonic() - began
    for rank in (0, 1):
        mine = [line for line in outcome.text.splitlines() if line.startswith(f"[{rank}] ")]
        assert mine == [f"[{rank}] {i}" for i in range(100_000)]
    assert len(streams(outcome)) < lasted / PRINT_SECONDS + 10


def test_thirty_megabytes_in_a_line(kernel):
    kernel.run("%%cooptim ranks\n1")
    began = time.monotonic()
    outcome = kernel.run("%%cooptim ranks --workers 1\nprint('x' * 30_000_000)")
    assert len(outcome.text) == 30_000_005
    assert time.monotonic() - began < 4  # it takes one; a line that is put together anew with every piece, thirty


TALKATIVE = """%%cooptim sharded --workers 1 --epochs 20 -o run
import torch
from torch import nn

model = nn.Linear(2, 2)
data = torch.zeros(64, 2), torch.zeros(64, dtype=torch.long)


def loss(output, target):
    print("a step", flush=True)
    time.sleep(0.01)
    return nn.functional.cross_entropy(output, target)
"""


def test_output_does_not_draw_the_chart(kernel):
    kernel.run("import time")
    began = time.monotonic()
    outcome = kernel.run(TALKATIVE)
    lasted = time.monotonic() - began
    drawn = [state for state in kernel.widget_states() if "points" in state or "status" in state]
    assert len(streams(outcome)) > 5
    assert len(drawn) <= lasted / REFRESH_SECONDS + 4
