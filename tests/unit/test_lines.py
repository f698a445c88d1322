"""What a rank prints becomes whole lines, as a terminal shows them, wherever the stream of bytes is cut."""

from __future__ import annotations

import time

import pytest

from cooptim_lab.ranks.lines import SHOWN, Lines, settled

TEXT = "first\n\nΣ θ_i, 梯度 𝜕\nno end"
NO_ENDS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


def bar(done: int) -> str:
    return f"\r{done:3}%|{'#' * (done // 10):10}|"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_lines_are_whole_and_complete(size):
    data, lines = TEXT.encode(), Lines()
    pieces = [lines.feed(data[i : i + size]) for i in range(0, len(data), size)]
    assert all(piece.endswith("\n") for piece in pieces if piece)
    assert "".join(pieces) + lines.feed(b"", last=True) == TEXT + "\n"


def test_the_end_adds_nothing_to_whole_lines():
    lines = Lines()
    assert lines.feed(b"a\n") == "a\n"
    assert lines.feed(b"", last=True) == ""


def test_bytes_that_are_no_text_are_shown_as_such():
    lines = Lines()
    assert lines.feed(b"a\xffb\n") == "a\ufffdb\n"


def test_a_character_that_was_begun_and_not_ended_is_shown_as_such():
    lines = Lines()
    assert lines.feed("Σ".encode()[:1]) == ""
    assert lines.feed(b"", last=True) == "\ufffd\n"
    assert lines.feed(b"next\n") == "next\n"


def test_lines_end_at_newlines_only():
    lines = Lines()
    assert lines.feed(f"a{NO_ENDS}b".encode()) == ""
    assert lines.feed(b"\n") == f"a{NO_ENDS}b\n"


@pytest.mark.parametrize("size", [1, 3, 8, 1000])
def test_a_bar_is_printed_once_in_its_last_state(size):
    data = ("".join(map(bar, range(0, 101, 2))) + "\nafter\n").encode()
    lines, seen, whole = Lines(), list[str](), ""
    for i in range(0, len(data), size):
        whole += lines.feed(data[i : i + size])
        seen.append(lines.unfinished)
    assert whole == f"{bar(100)[1:]}\nafter\n"
    if size < 10:
        assert bar(50)[1:] in seen


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("long one\rshort", "shortone"),
        ("a\r", "a"),
        ("a\r\r", "a"),
        ("abc\rx\ryz", "yzc"),
        ("\rabc", "abc"),
        ("one\r\ntwo\r\n", "one\ntwo\n"),
        ("a long one\r\x1b[Kshort", "short"),
        ("a long one\r\x1b[2K", ""),
        ("\x1b[31mred and long\x1b[0m\r\x1b[32mgreen\x1b[0m", "\x1b[32mgreen\x1b[0mnd long\x1b[0m"),
        ("plain\x1b[31m", "plain\x1b[31m"),
    ],
)
def test_what_comes_later_is_written_over_what_was(written, shown):
    assert settled(written) == shown


def test_what_cannot_be_seen_is_no_last_line():
    lines = Lines()
    lines.feed(b"100%\r    \r")
    assert lines.feed(b"", last=True) == ""
    assert lines.unfinished == ""


def test_looking_at_an_unfinished_line_changes_nothing():
    lines = Lines()
    for piece in ("abcdef\rx", "y", "\r", "1"):
        lines.feed(piece.encode())
        assert lines.unfinished == lines.unfinished
    assert lines.unfinished == "1ycdef"
    assert lines.feed(b"23\n") == "123def\n"


def test_of_a_bar_that_is_drawn_for_ever_no_more_than_its_state_is_kept():
    lines = Lines()
    for i in range(10_000):
        lines.feed(f"\r{i} steps".encode())
        assert lines.unfinished == f"{i} steps"
    assert sum(map(len, lines.pieces)) < 100


def test_a_line_of_many_megabytes_is_quick_whoever_looks_at_it():
    lines, piece, began = Lines(), b"x" * (1 << 16), time.monotonic()
    for _ in range(480):
        lines.feed(piece)
        assert lines.unfinished == "x" * SHOWN
    assert len(lines.feed(b"\n")) == (480 << 16) + 1
    assert time.monotonic() - began < 2
