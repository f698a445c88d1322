"""The short form of `make drills`: every drill once, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support import ROOT


@pytest.mark.mpi
@pytest.mark.timeout(200)
def test_the_short_form_does_no_harm():
    command = [sys.executable, "-m", "tests.drills", "--times", "1", "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tasks in a row" in done.stdout
