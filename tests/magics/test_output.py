"""What is put under a cell of what ranks print: rank and stream of every line, and what has no end yet."""

from __future__ import annotations

import pytest
from cooptim_magics.output import LiveLines, write_output

from cooptim_lab.runs.events import Output, Unfinished


def whole(rank, text, stream="stdout"):
    return Output(rank=rank, stream=stream, text=text)


def growing(rank, text):
    return Unfinished(rank=rank, stream="stderr", text=text)


def test_every_line_has_its_rank_in_front(capsys):
    write_output([whole(0, "a\n\nb\x85c\u2028d\n"), whole(1, "e\n"), whole(1, "f\n", "stderr"), whole(None, "g\nh\n")])
    assert capsys.readouterr() == ("[0] a\n[0] \n[0] b\x85c\u2028d\n[1] e\ng\nh\n", "[1] f\n")


def test_nothing_is_nothing(capsys):
    write_output([])
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def states(notebook, monkeypatch):
    """What a page was shown so far: (text, whether in the place of what was there before)."""
    monkeypatch.setattr("cooptim_magics.output.can_replace", lambda: True)
    return lambda: [(each["data"]["text/plain"], each["update"]) for each in notebook.kept]


def test_unfinished_lines_are_shown_in_one_place_and_leave_nothing(states):
    lines = LiveLines()
    for now in ([], [growing(0, " 1%")], [growing(0, " 1%")], [growing(0, " 2%"), growing(1, " 1%")], []):
        lines.show(now)
    lines.show([growing(None, "by somebody")])
    lines.clear()
    assert states() == [
        ("[0]  1%", False),
        ("[0]  2%\n[1]  1%", True),
        ("", True),
        ("by somebody", True),
        ("", True),
    ]


def test_where_there_was_none_nothing_is_left(states):
    lines = LiveLines()
    lines.show([])
    lines.clear()
    assert states() == []


def test_a_terminal_is_not_filled_with_states(notebook):
    lines = LiveLines()
    lines.show([growing(0, " 1%")])
    lines.clear()
    assert notebook.kept == []
