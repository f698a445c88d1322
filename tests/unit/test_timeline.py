"""Where the time goes: waiting told from communicating by comparing when each rank came to a call."""

from __future__ import annotations

import time

import numpy as np
import pytest

from cooptim_lab.comm.timeline import ALL, OTHERS, ROOT, Timeline, waiting
from tests.support import SoloComm

CAME = [0.0, 3.0, 1.0]
LEFT = [5.0, 5.0, 4.5]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(ALL, [3.0, 0.0, 2.0]), (ROOT, [3.0, 0.0, 0.0]), (OTHERS, [0.0, 0.0, 0.0])],
)
def test_who_waits_for_whom(kind, expected):
    times = np.array([[(came, left)] for came, left in zip(CAME, LEFT, strict=True)])
    assert waiting(times, [kind])[:, 0].tolist() == expected


def test_others_wait_for_rank_0():
    times = np.array([[(4.0, 5.0)], [(1.0, 5.0)], [(3.0, 3.5)]])
    assert waiting(times, [OTHERS])[:, 0].tolist() == [0.0, 3.0, 0.5]  # no longer than the call itself


def test_the_parts_add_up_to_the_time_that_passed():
    timeline = Timeline(SoloComm())
    timeline.restart()
    began = time.perf_counter()
    for _ in range(3):
        time.sleep(0.01)
        came = time.perf_counter()
        time.sleep(0.02)
        timeline.called(came, ALL, 100)
        timeline.step()
    with timeline.paused():  # scoring is not training
        came = time.perf_counter()
        time.sleep(0.05)
        timeline.called(came, ALL, 100)
    (share,) = timeline.share()
    elapsed = time.perf_counter() - began - 0.05
    assert share.steps == 3
    assert share.sent == 300
    assert share.communication >= 0.06
    assert share.compute >= 0.03
    assert share.waiting == 0
    assert share.compute + share.communication == pytest.approx(elapsed, abs=0.02)
    assert timeline.totals.tolist() == [[3, share.compute, share.communication, 0, 300]]


def test_what_a_rank_tells_alone_is_in_the_totals_too():
    timeline = Timeline(SoloComm())
    timeline.restart()
    timeline.spent(communication=1.0, waiting=2.0, sent=7)
    timeline.step()
    told = timeline.tell()
    timeline.step()
    timeline.share()
    assert (told.communication, told.waiting, told.sent) == (1.0, 2.0, 7)
    steps, _, communication, stood, sent = timeline.totals[0].tolist()
    assert (steps, communication, stood, sent) == (2, 1.0, 2.0, 7)
