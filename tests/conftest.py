"""Fixtures that all tests share, and a rule: in CI a skipped test of ranks or of the browser is a failure."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cooptim_lab import RankPool
from cooptim_lab.hardware import find_mpiexec
from tests import support

# Threads of torch that wait for each other sleep. If they spin, a step of two threads on a machine that others use too
# takes 98 ms instead of 3, and a test of a second takes minutes. It must be set before torch is imported anywhere.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

NEVER_SKIPPED_IN_CI = ("mpi", "browser")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Where CI is set, what these marks stand for is installed: a skip would hide that it is not."""
    report = yield
    is_skip = report.skipped and not hasattr(report, "wasxfail")
    if is_skip and os.environ.get("CI") and any(item.get_closest_marker(mark) for mark in NEVER_SKIPPED_IN_CI):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where it must run: {call.excinfo.value}"
    return report


@pytest.fixture(scope="session", autouse=True)
def session_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The record of runs is kept in a directory of this session; its name also marks the processes we start."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("home")
        patch.setenv("COOPTIM_HOME", str(place))
        yield place


@pytest.fixture(scope="session")
def pool() -> Iterator[RankPool]:
    """Two ranks that stand ready for all tests which leave them whole."""
    if find_mpiexec() is None:
        pytest.skip("mpiexec is not installed")
    with RankPool(2) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def calm() -> Iterator[None]:
    """Every round of a study counts and nothing is doubted for its seconds, whatever this machine does meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cooptim_lab.studies.rounds.disturbed", lambda *seen: "")
        patch.setattr("cooptim_lab.studies.quiet.Surroundings.await_quiet", lambda self, tell: True)
        patch.setattr("cooptim_lab.studies.ceilings.disturbs", lambda seen: "")
        patch.setattr("cooptim_lab.studies.ceilings.UNSTEADY", 100.0)
        patch.setattr("cooptim_lab.studies.rows._trouble", lambda row: "")
        for place in ("ways", "studies.rows"):
            patch.setattr(f"cooptim_lab.{place}.slow_by_threads", lambda tried: "")
        patch.setattr("cooptim_lab.ways.WAITS_MUCH", 1.0)
        yield


@pytest.fixture
def nothing_left() -> Iterator[Callable[[], set[int]]]:
    """After the test nothing is left of the processes that it started, nor of the files they had.

    Call it when they are up: it notes their shared memory and their directory, and returns their process ids.
    """
    before = support.rank_processes()
    files: set[Path] = set()

    def started() -> set[int]:
        return support.rank_processes() - before

    def note() -> set[int]:
        files.update(support.traces(started()))
        return started()

    yield note

    def left() -> list[object]:
        return [*started(), *filter(Path.exists, files)]

    is_clean = support.wait_until(lambda: not left(), support.GONE_SECONDS)
    found = left()
    support.clean_up(started(), files)  # so that one failure does not lead to others
    assert is_clean, f"left behind: {found}"
    assert files, "the test started nothing, or never called nothing_left()"
