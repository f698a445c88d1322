"""The rule of conftest.py: in CI a skipped test of ranks or of the browser is a failure."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support import PATIENCE_SECONDS, ROOT

TESTS = """
import pytest

@pytest.mark.mpi
def test_skips_itself():
    pytest.skip("no ranks here")

@pytest.mark.browser
@pytest.mark.skipif(True, reason="no browser here")
def test_is_skipped():
    pass

@pytest.mark.mpi
@pytest.mark.xfail(reason="known", strict=True)
def test_fails_as_expected():
    assert False

@pytest.mark.mpi
def test_passes():
    pass

def test_may_be_skipped():
    pytest.skip("another system")
"""


@pytest.mark.parametrize(
    ("ci", "outcomes"),
    [({"CI": "true"}, "1 failed, 1 passed, 1 skipped, 1 xfailed, 1 error"), ({}, "1 passed, 3 skipped, 1 xfailed")],
    ids=["CI", "elsewhere"],
)
def test_a_skip_is_a_failure_in_ci_only(tmp_path, ci, outcomes):
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  mpi: x\n  browser: x\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", "-rf", str(tmp_path)],
        cwd=ROOT,
        env={**{name: value for name, value in os.environ.items() if name != "CI"}, **ci},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert outcomes in done.stdout.splitlines()[-1], done.stdout + done.stderr
    assert done.returncode == (1 if ci else 0)
    assert ("skipped in CI, where it must run: no ranks here" in done.stdout) == bool(ci)
