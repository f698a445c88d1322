"""When a machine is measured: once for each fingerprint, again when it has changed; what others disturb is not kept."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from cooptim_lab.costs import known
from cooptim_lab.errors import InputError, PoolError, RankFailure, RunStopped
from cooptim_lab.hardware.ceilings import FLOAT32, Ceiling
from cooptim_lab.runs.events import Counted, Gauged, Note
from cooptim_lab.studies import ceilings as module
from cooptim_lab.studies.ceilings import CeilingStudy, measure_ceilings
from tests.support import PATIENCE_SECONDS

MACHINE = {"cpu": "a processor", "cpus": 2, "torch": "2.13.0"}
ROWS = [Ceiling(kind="square", name=FLOAT32, threads=2, size=64, value=5.0, low=4.0, high=6.0, samples=3)]
LINKS = [Ceiling(kind="latency", value=1e-6, low=1e-6, high=1e-6, samples=5)]


@pytest.fixture(autouse=True)
def world(tmp_path, monkeypatch, calm):
    """No ranks: what programs give, and which were asked."""
    monkeypatch.setenv("COOPTIM_HOME", str(tmp_path))
    world = SimpleNamespace(asked=[], fails={}, machine=dict(MACHINE), is_here=True)
    world.gives = {
        "run_tell_pid": [1, 2],
        "run_measure_task": [{"name": "a task"}],
        "run_measure_machine": [[row.summary() for row in ROWS]],
        "run_measure_links": [[row.summary() for row in LINKS]],
    }

    def ask_all(self, program, workers, **arguments):
        name = program.__name__
        world.asked.append(name)
        if name in world.fails:
            raise world.fails[name]
        return world.gives[name]

    monkeypatch.setattr(CeilingStudy, "ask_all", ask_all)
    monkeypatch.setattr(module, "fingerprint", lambda: world.machine)
    world.pool = SimpleNamespace(reserve=lambda workers: None, launch=SimpleNamespace(is_here=True))
    return world


def measure(world, **options):
    """The run, ended, and what was asked of ranks."""
    world.asked.clear()
    run = measure_ceilings(pool=world.pool, **options)
    run.wait(PATIENCE_SECONDS)
    return run, [name for name in world.asked if name.startswith("run_measure")]


def said(run, **kind) -> list[str]:
    return [event.text for event in run.log.since(0) if isinstance(event, Note)]


ALL = ["run_measure_task", "run_measure_machine", "run_measure_links"]


def test_measured_once(world):
    first, asked = measure(world)
    assert asked == ALL
    assert first.result.rows == (*ROWS, *LINKS)
    assert (first.result.cpus, first.result.fingerprint) == (2, MACHINE)
    second, asked = measure(world)
    assert asked == ALL[:1]  # the layers are the task's, and counted each time
    assert second.result == first.result
    assert any("this machine is the same" in text for text in said(second))
    figures = [[e.ceiling for e in run.log.since(0) if isinstance(e, Gauged)] for run in (first, second)]
    assert figures[0] == figures[1]


def test_again_when_asked(world):
    measure(world)
    assert measure(world, again=True)[1] == ALL


@pytest.mark.parametrize(("name", "value"), [("torch", "2.14.0"), ("cpus", 64), ("cpu", "another")])
def test_again_when_the_machine_has_changed(world, name, value):
    measure(world)
    before = world.machine[name]
    world.machine = {**MACHINE, name: value}
    run, asked = measure(world)
    assert asked == ALL
    assert said(run) == [
        f"the machine is another than when it was measured ({name} was {before}, is {value}): measured again"
    ]
    world.machine = dict(MACHINE)
    assert measure(world)[1] == ALL[:1]  # back on the first one


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"rows": ['])
def test_again_when_the_file_is_damaged(world, content):
    measure(world)
    known.place(MACHINE).write_bytes(content)
    assert measure(world)[1] == ALL
    assert measure(world)[1] == ALL[:1]


def test_what_others_disturbed_is_shown_and_not_kept(world, monkeypatch):
    monkeypatch.setattr(module, "disturbs", lambda seen: "other programs had 50 % of the CPUs")
    run, _ = measure(world)
    assert run.result.rows == (*ROWS, *LINKS)
    (doubt,) = run.result.doubts
    assert "other programs had 50 %" in doubt
    assert doubt in said(run)
    assert measure(world)[1] == ALL


def test_what_jumps_about_is_not_kept(world, monkeypatch):
    monkeypatch.setattr(module, "UNSTEADY", 0.25)
    run, _ = measure(world)
    assert run.result.doubts == ()  # quartiles are 40 % apart, and 0 %
    monkeypatch.setitem(world.gives, "run_measure_links", [[replace(LINKS[0], high=2e-6).summary()]])
    run, _ = measure(world, again=True)
    (doubt,) = run.result.doubts
    assert doubt.startswith("busy: the quartiles of half the figures are 70 %")
    assert known.known(MACHINE) != run.result


def test_another_machines_ranks_are_not_this_one(world):
    measure(world)
    world.pool.launch.is_here = False
    run, asked = measure(world)
    assert asked == ALL
    assert any("another machine" in text for text in said(run))


def test_a_disk_that_takes_nothing(world, monkeypatch):
    def full(ceilings):
        raise OSError("no space left")

    monkeypatch.setattr(known, "keep", full)
    run, _ = measure(world)
    assert run.state == "done"
    assert said(run) == ["the figures are not kept: no space left"]


@pytest.mark.parametrize(
    "error",
    [
        InputError("the model has no parameter to train"),
        RankFailure(0, "here", "RuntimeError: the model has no parameter to train"),
    ],
)
def test_a_task_that_does_not_fit_has_no_layers(world, error):
    world.fails["run_measure_task"] = error
    run, asked = measure(world)
    assert asked == ALL
    assert not any(isinstance(event, Counted) for event in run.log.since(0))
    assert any(f"are not shown: {error}" in text for text in said(run))


def test_without_messages(world):
    world.fails["run_measure_links"] = PoolError("no room for 2 ranks")
    run, _ = measure(world)
    assert run.result.rows == tuple(ROWS)
    assert run.result.one("latency") is None
    assert any("no room for 2 ranks" in doubt for doubt in run.result.doubts)


def test_a_stop_keeps_nothing_on_disk(world):
    world.fails["run_measure_links"] = RunStopped("stopped")
    run = measure_ceilings(pool=world.pool)
    assert run.wait(PATIENCE_SECONDS).rows == tuple(ROWS)
    assert run.state == "stopped"
    assert known.known(MACHINE) is None


def test_options(world):
    with pytest.raises(InputError, match=r"seconds = 0: must be 0\.1 or more"):
        measure_ceilings(pool=world.pool, seconds=0)
    with pytest.raises(InputError, match="speed"):
        measure_ceilings(pool=world.pool, speed=3)
