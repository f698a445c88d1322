"""A new command is one new file and its entry in the list: nothing else needs to know of it."""

from __future__ import annotations

import sys

import pytest
from cooptim_magics.commands import COMMANDS
from cooptim_magics.dispatch import complete

SOURCE = '''
"""`greet`: a toy."""

from cooptim_lab.errors import InputError
from cooptim_magics.grammar import Command, Option


def greet(session, arguments, cell):
    if arguments.times > 9:
        raise InputError("times: 9 will do")
    session.shell.user_ns["greeted"] = [arguments.tone] * arguments.times, cell


GREET = Command(
    "greet",
    "say hello, loud or soft",
    greet,
    options=(
        Option(("tone",), "how", choices=("loud", "soft"), is_optional=False),
        Option(("-t", "--times"), "how often", kind=int, default=1, at_least=1),
    ),
    body="is whom to greet",
)
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Its one file, and its one entry."""
    (tmp_path / "toy_greeting.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    import toy_greeting

    monkeypatch.setitem(COMMANDS, toy_greeting.GREET.name, toy_greeting.GREET)
    yield toy_greeting
    del sys.modules["toy_greeting"]


def test_is_dispatched(notebook, toy):
    notebook.run("%cooptim greet soft")
    assert notebook.names["greeted"] == (["soft"], None)
    notebook.run("%%cooptim greet loud -t 2\neverybody")
    assert notebook.names["greeted"] == (["loud", "loud"], "everybody\n")


def test_its_mistakes_are_one_line(notebook, toy):
    assert notebook.refuse("%cooptim greet soft --times 10") == "times: 9 will do"
    assert notebook.refuse("%cooptim greet soft --times 0") == "-t/--times = 0: must be 1 or more"
    assert "choose one of loud, soft" in notebook.refuse("%cooptim greet shrill")
    assert notebook.refuse("%cooptim gret soft").endswith("did you mean greet?")
    assert "greet take one" in notebook.refuse("%%cooptim compare\n1")


def test_is_in_the_overview(notebook, toy):
    assert "  %cooptim greet     say hello, loud or soft\n" in notebook.run("%cooptim").stdout


def test_explains_itself(notebook, toy):
    text = notebook.run("%cooptim greet --help").stdout
    assert text.startswith("usage: %cooptim greet {loud,soft} [-t N]\n\nsay hello, loud or soft\n")
    assert "how often (default 1)" in text
    assert text.endswith("The body of a %%cooptim greet cell is whom to greet.\n")


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("%cooptim gr", ["greet"]),
        ("%cooptim greet ", ["loud", "soft", "--times", "--help"]),
        ("%cooptim greet soft --t", ["--times"]),
    ],
)
def test_is_completed(toy, text, offered):
    assert complete(text) == offered


def test_without_its_entry_it_is_unknown(notebook):
    """The breakage beside it: the list alone makes the command."""
    assert "no 'greet'" in notebook.refuse("%cooptim greet soft")
    assert complete("%cooptim gr") == []
