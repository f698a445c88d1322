"""Fixtures that all tests share, and a rule: in CI a skipped test of ranks or of the browser is a failure."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cooptim_lab import RankPool
from cooptim_lab.hardware import find_mpiexec
from tests import support

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


@pytest.fixture
def nothing_left() -> Iterator[set[Path]]:
    """After the test no process is left of those it started, and none of the files it has put into the set given."""
    before = support.rank_processes()
    files: set[Path] = set()
    yield files

    def left() -> list[object]:
        return [*(support.rank_processes() - before), *filter(Path.exists, files)]

    assert support.wait_until(lambda: not left(), support.GONE_SECONDS), f"left behind: {left()}"
