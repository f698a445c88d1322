"""The handle of a run and its log: how it ends, how it is stopped, who hears what."""

from __future__ import annotations

import threading

import pytest

from cooptim_lab import InputError, RankFailure, Run, RunStopped
from cooptim_lab.runs.events import Ended, Note, Output, Resumed, Unfinished
from cooptim_lab.runs.run import RunLog


@pytest.fixture
def run():
    return Run("sharded", {"workers": 2}, title="sharded: digits")


def last(run):
    return run.log.since(0)[-1]


# How it ends.


def test_a_new_run_waits(run):
    assert (run.state, run.ended, run.result, run.error, run.stop_level) == ("waiting", False, None, None, 0)
    assert run.id in repr(run)
    assert "waiting" in repr(run)
    run.begin()
    assert run.state == "running"


def test_every_run_has_an_id_of_its_own():
    assert len({Run("a", {}).id for _ in range(200)}) == 200


def test_finished_it_gives_its_result(run):
    run.finish({"value": 3}, summary={"metric": 0.5})
    assert run.wait() == {"value": 3}
    assert (run.state, run.ended, run.result) == ("done", True, {"value": 3})
    assert (last(run).state, last(run).summary) == ("done", {"metric": 0.5})


def test_stopped_with_a_result_it_gives_that(run):
    run.finish([1], state="stopped")
    assert run.wait() == [1]
    assert run.state == "stopped"


def test_stopped_without_a_result_it_says_so(run):
    run.fail(RunStopped("stopped while the ranks were starting"))
    assert run.state == "stopped"
    with pytest.raises(RunStopped, match=run.id):
        run.wait()


def test_failed_it_raises_what_made_it_fail(run):
    error = RankFailure(1, "here", "ValueError: no", "Traceback (most recent call last): ...")
    run.fail(error)
    assert (run.state, run.error) == ("failed", error)
    assert (last(run).message, last(run).traceback) == ("rank 1 on here: ValueError: no", error.remote_traceback)
    for _ in range(2):
        with pytest.raises(RankFailure) as caught:
            run.wait()
        assert caught.value is error


def test_an_error_from_elsewhere_is_told_with_its_name(run):
    run.fail(KeyError("epochs"))
    assert last(run).message == "KeyError: 'epochs'"


def test_the_first_end_is_the_end(run):
    run.finish(1)
    run.fail(InputError("too late"))
    run.finish(2)
    assert run.wait() == 1
    assert [type(event) for event in run.log.since(0)] == [Ended]


def test_after_the_end_nothing_is_recorded(run):
    run.post(Note(text="before"))
    run.finish(1)
    run.post(Note(text="after"))
    assert [type(event) for event in run.log.since(0)] == [Note, Ended]


def test_waiting_gives_up_after_its_time_and_stops_nothing(run):
    with pytest.raises(TimeoutError, match=run.id):
        run.wait(timeout=0)
    assert not run.ended
    run.finish(1)
    assert run.wait(timeout=0) == 1


def test_a_waiting_thread_is_woken(run):
    threading.Timer(0.05, run.finish, [7]).start()
    assert run.wait(timeout=60) == 7


# How it is stopped.


def test_every_stop_is_one_level_more(run):
    levels = []
    run.on_stop(levels.append)
    for _ in range(3):
        run.stop()
    assert levels == [1, 2, 3]
    assert not run.ended  # who carries the work ends it


def test_a_stop_that_came_early_is_heard(run):
    run.stop()
    levels = []
    run.on_stop(levels.append)
    assert levels == [1]


# Who hears what.


def notes(log):
    return [event.text for event in log]


def test_the_log_is_read_from_any_place():
    log = RunLog()
    for text in "abc":
        log.append(Note(text=text))
    assert [notes(log.since(i)) for i in (0, 2, 3, 9)] == [["a", "b", "c"], ["c"], [], []]


def growing(text, rank=0, stream="stderr"):
    return Unfinished(rank=rank, stream=stream, text=text)


@pytest.mark.parametrize("end", [Ended(state="done"), Resumed(rank=0, step=1, epoch=0.5)])
def test_of_unfinished_lines_the_log_has_the_present_state_only(end):
    log = RunLog()
    for event in (growing("1"), growing("2"), growing("b", stream="stdout"), growing("c", None), growing("d", 1)):
        log.append(event)
    log.append(Output(rank=1, stream="stderr", text="d\n"))
    assert notes(log.unfinished()) == ["c", "2", "b"]
    assert notes(log.since(0)) == ["d\n"]
    log.append(growing(" ", None))
    assert notes(log.unfinished()) == ["2", "b"]
    log.append(end)
    assert log.unfinished() == []


def test_what_was_seen_of_an_unfinished_line_stays_when_nothing_more_comes(run):
    run.begin()
    run.post(growing(" 50%"))
    run.fail(RunStopped("stopped"))
    first, end = run.log.since(0)
    assert (first.rank, first.stream, first.text) == (0, "stderr", " 50%\n")
    assert isinstance(end, Ended)


def test_listeners_hear_of_every_state_of_an_unfinished_line():
    log, heard = RunLog(), []
    log.listen(heard.append)
    for text in "ab":
        log.append(growing(text))
    assert notes(heard) == ["a", "b"]


def test_a_listener_hears_the_past_and_the_future_once_and_in_order():
    log, heard = RunLog(), []
    for text in "ab":
        log.append(Note(text=text))
    log.listen(heard.append)
    for text in "cd":
        log.append(Note(text=text))
    assert notes(heard) == ["a", "b", "c", "d"] == notes(log.since(0))


def test_what_happens_while_a_listener_hears_the_past_comes_after_it():
    log, heard = RunLog(), []
    for text in "ab":
        log.append(Note(text=text))
    meanwhile = threading.Thread(target=log.append, args=[Note(text="c")])

    def listener(event):
        heard.append(event)
        if event.text == "a":
            meanwhile.start()
            meanwhile.join(0.5)  # if it can get in between, it will

    log.listen(listener)
    meanwhile.join(60)
    assert notes(heard) == ["a", "b", "c"]


def test_a_listener_may_add_to_the_log():
    log, heard = RunLog(), []

    def listener(event):
        heard.append(event)
        if event.text == "a":
            log.append(Note(text="b"))

    log.listen(listener)
    log.append(Note(text="a"))
    assert sorted(notes(heard)) == ["a", "b"] == notes(log.since(0))


def test_many_threads_lose_nothing_and_all_hear_the_same():
    log = RunLog()
    heard = [[], []]
    for each in heard:
        log.listen(each.append)
    threads = [
        threading.Thread(target=lambda who=who: [log.append(Note(text=f"{who} {i}")) for i in range(300)])
        for who in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    everything = log.since(0)
    assert len(everything) == 1200
    assert heard == [everything, everything]
