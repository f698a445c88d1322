"""What a rank prints becomes whole lines, wherever the stream of bytes is cut."""

from __future__ import annotations

import pytest

from cooptim_lab.ranks.lines import Lines

TEXT = "first\n\nΣ θ_i, 梯度 𝜕\r\nno end"


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
