"""What a program has put under a name of a module or class is taken back, whether or not Python counts the changes."""

from __future__ import annotations

import types

import pytest

from cooptim_lab.ranks import namespaces
from cooptim_lab.ranks.namespaces import Namespace


def make(kind):
    return types.ModuleType("made") if kind == "module" else type("Made", (), {})


@pytest.fixture(params=["module", "class"])
def owner(request):
    made = make(request.param)
    made.kept, made.other = 1, 2
    return made


@pytest.fixture(params=[True, False], ids=["counted", "looked at"])
def known(request, monkeypatch, owner):
    if request.param and not namespaces.IS_COUNTED:
        pytest.skip("this Python counts no changes")
    monkeypatch.setattr(namespaces, "IS_COUNTED", request.param)
    return Namespace(owner)


def test_what_was_set_or_removed_is_put_back_every_time(owner, known):
    for value in (3, 4):
        owner.kept = value
        del owner.other
        known.restore()
        assert (owner.kept, owner.other) == (1, 2)


def test_what_was_added_stays(owner, known):
    owner.more, owner.kept = 5, 3
    known.restore()
    assert (owner.more, owner.kept) == (5, 1)


def test_what_is_as_it_was_is_not_looked_at(owner, monkeypatch):
    if not namespaces.IS_COUNTED:
        pytest.skip("this Python counts no changes")
    known, looks = Namespace(owner), []
    monkeypatch.setattr(namespaces, "vars", lambda given: looks.append(given) or given.__dict__, raising=False)
    known.restore()
    assert looks == []
    owner.kept = 3
    known.restore()
    known.restore()
    assert looks == [owner]
