"""The record of runs on disk: whole, private to each run, and readable also where it was cut off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cooptim_lab import Run
from cooptim_lab.runs import store
from cooptim_lab.runs.events import Ended, Note, Output, Points, Started, Unfinished
from tests.support import refused, run_python


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv(store.PLACE, str(tmp_path))
    return tmp_path


def kept(title="a run", **options):
    """A run that is being recorded."""
    run = Run("sharded", options, title=title)
    store.keep(run)
    run.post(Started(way="sharded", options=options, workers=2))
    return run


def path_of(run):
    return store.directory() / f"{run.id}.jsonl"


def test_a_run_is_read_back_as_it_was(home):
    run = kept(workers=2)
    run.post(Points(rank=1, curve="loss", x=(0.5,), y=(1 / 3,)))
    run.post(Unfinished(rank=0, stream="stdout", text="Σ"))
    run.post(Output(rank=0, stream="stdout", text="Σ θ_i\n"))
    run.finish(None, summary={"metric": 0.5})
    record = store.load(run.id)
    assert store.directory() == home / "runs"
    assert (record.id, record.kind, record.title, record.options) == (run.id, "sharded", "a run", {"workers": 2})
    assert (record.created, record.pid, record.state) == (run.created, os.getpid(), "done")
    assert list(record.events) == run.log.since(0)


def test_what_happened_before_it_was_kept_is_recorded_too():
    run = Run("sharded", {})
    run.post(Note(text="early"))
    store.keep(run)
    run.finish(None)
    assert [type(event) for event in store.load(run.id).events] == [Note, Ended]


def test_a_run_can_be_read_while_it_goes_on():
    run = kept()
    assert store.load(run.id).state == "running"
    assert len(store.load(run.id).events) == 1
    run.finish(None, state="stopped")
    assert store.load(run.id).state == "stopped"


def test_the_newest_run_comes_first():
    runs = [kept(title=name) for name in "abc"]
    for created, run in enumerate(runs):
        run.finish(None)
        lines = path_of(run).read_text().splitlines()
        path_of(run).write_text("\n".join([json.dumps({**json.loads(lines[0]), "created": created}), *lines[1:]]))
    assert [record.title for record in store.records()] == ["c", "b", "a"]


def test_no_runs_are_no_error():
    assert store.records() == []


@pytest.mark.parametrize("id", ["abcde", "", "../secret", "a/b", "*"])
def test_a_run_that_is_not_there_is_refused(id):
    with refused(f"no run {id}", "%cooptim runs"):
        store.load(id)


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_record_is_read_up_to_the_torn_line(cut):
    run = kept()
    for text in ("one", "two", "three"):
        run.post(Note(text=text))
    run.finish(None)
    whole = path_of(run).read_bytes()
    end_of_two = whole.index(b"\n", whole.index(b'"two"')) + 1
    path_of(run).write_bytes(whole[: end_of_two + cut])
    record = store.load(run.id)
    assert [event.text for event in record.events if isinstance(event, Note)] == ["one", "two"]
    assert record.state == "running"  # this process lives


@pytest.mark.parametrize(
    "line", ["null", "[]", "3", '"Note"', '{"event": "Points", "curve": "a", "x": 1, "y": 2}', "{}"]
)
def test_a_line_that_is_no_event_ends_the_record(line):
    run = kept()
    run.finish(None)
    lines = path_of(run).read_text().splitlines()
    path_of(run).write_text("\n".join([*lines[:2], line, *lines[2:]]))
    (record,) = store.records()
    assert [type(event) for event in record.events] == [Started]


@pytest.mark.parametrize("content", ["", "\n", "not json", "[]", "null", "{}", '{"run": "abcde"}', "\x00\x01"])
def test_a_file_that_is_no_record_is_left_out(content):
    run = kept()
    run.finish(None)
    (store.directory() / "other.jsonl").write_text(content)
    (store.directory() / "bytes.jsonl").write_bytes(b"\xff\xfe")
    assert [record.id for record in store.records()] == [run.id]


def test_a_record_without_an_end_is_lost_when_its_process_is_gone():
    run = kept()
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait(60)
    lines = path_of(run).read_text().splitlines()
    path_of(run).write_text("\n".join([json.dumps({**json.loads(lines[0]), "pid": gone.pid}), *lines[1:]]))
    assert store.load(run.id).state == "lost"
    run.finish(None)


def test_a_process_that_is_killed_leaves_what_was_recorded():
    done = run_python(
        "import os, signal\n"
        "from cooptim_lab import Run\n"
        "from cooptim_lab.runs import store\n"
        "from cooptim_lab.runs.events import Note\n"
        "run = Run('sharded', {})\n"
        "store.keep(run)\n"
        "run.post(Note(text='the last word'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert done.returncode == -9
    (record,) = store.records()
    assert record.state == "lost"
    assert [event.text for event in record.events] == ["the last word"]


def test_runs_have_files_of_their_own():
    runs = [kept(title=name) for name in "ab"]
    for run in runs:
        run.post(Note(text=run.title))
        run.finish(None)
    assert len({path_of(run) for run in runs}) == 2
    for run in runs:
        assert [event.text for event in store.load(run.id).events if isinstance(event, Note)] == [run.title]


def test_a_name_that_is_taken_is_not_written_over():
    first = kept(title="first")
    first.finish(None)
    second = Run("sharded", {}, title="second")
    second.id = first.id
    store.keep(second)
    second.finish(None)
    assert store.load(first.id).title == "first"
    assert "not recorded" in second.log.since(0)[0].text


def test_a_place_that_cannot_be_written_to_is_told_and_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(store.PLACE, str(tmp_path / "file"))
    run = kept()
    run.finish(3)
    assert run.wait() == 3
    assert "not recorded" in run.log.since(0)[0].text


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device to write to")
def test_a_full_disk_is_told_once_and_stops_nothing():
    run = Run("sharded", {})
    store.directory().mkdir(parents=True)
    path = Path(store.directory() / f"{run.id}.jsonl")
    opened = Path.open
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Path,
            "open",
            lambda self, *a, **k: opened(Path("/dev/full"), "w") if self == path else opened(self, *a, **k),
        )
        store.keep(run)
    for _ in range(3):
        run.post(Note(text="x" * 100))
    run.finish(3)
    assert run.wait() == 3
    told = [event.text for event in run.log.since(0) if isinstance(event, Note) and "ends here" in event.text]
    assert len(told) == 1


@pytest.mark.parametrize(("days", "form"), [(0, "%H:%M"), (2, "%Y-%m-%d %H:%M"), (400, "%Y-%m-%d %H:%M")])
def test_a_time_is_told_as_short_as_it_can_be(monkeypatch, days, form):
    noon = time.mktime((2026, 11, 23, 12, 0, 0, 0, 0, -1))
    now = time.localtime(noon)
    real = time.localtime
    monkeypatch.setattr(store.time, "localtime", lambda seconds=None: now if seconds is None else real(seconds))
    then = noon - days * 86400
    assert store.age(then) == time.strftime(form, real(then))
