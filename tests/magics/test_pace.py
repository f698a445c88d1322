"""How long a run will still take."""

from __future__ import annotations

from cooptim_magics.pace import Pace

from cooptim_lab.runs.events import Progress


def told(*steps, rank=0):
    pace = Pace()
    for time, done, total in steps:
        pace.take(Progress(rank=rank, done=done, total=total, time=time))
    return pace


def test_it_is_foreseen_by_what_was_done_since_the_first_word():
    pace = told((10.0, 100, 1000), (14.0, 300, 1000))  # a fifth in 4 s: 14 s are left
    assert pace.fraction == 0.3
    assert pace.left(14.0) == ", about 14 s left"
    assert told((0.0, 0, 100), (2.0, 50, 100)).left(2.0) == ", about 2 s left"
    assert told((0.0, 0, 1000), (60.0, 100, 1000)).left(60.0) == ", about 9.0 min left"


def test_nothing_is_said_where_that_says_little():
    assert Pace().left(5.0) == ""
    assert told((0.0, 10, 100)).left(5.0) == "", "nothing was done since"
    assert told((0.0, 0, 100), (0.5, 50, 100)).left(0.5) == "", "too short"
    assert told((0.0, 0, 1000), (5.0, 1, 1000)).left(5.0) == "", "too little"
    assert told((0.0, 0, 100), (9.0, 100, 100)).left(9.0) == ""
    assert told((0.0, 0, 0)).fraction is None


def test_the_rank_that_is_furthest_behind_counts():
    pace = told((0.0, 0, 100))
    pace.take(Progress(rank=1, done=0, total=100, time=0.0))
    pace.take(Progress(rank=0, done=80, total=100, time=10.0))
    pace.take(Progress(rank=1, done=50, total=100, time=10.0))
    assert pace.fraction == 0.5 and pace.left(10.0) == ", about 10 s left"
