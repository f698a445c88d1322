"""What a launcher says is told from what programs print through it; who runs under it besides the ranks."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cooptim_lab.ranks.sieve import Sieve
from cooptim_lab.ranks.spawned import Spawned
from tests.support import wait_until

HYDRA = f"""
{"=" * 83}
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   PID 4711 RUNNING AT here
=   EXIT CODE: 9
=   CLEANING UP REMAINING PROCESSES
=   YOU CAN IGNORE THE BELOW CLEANUP MESSAGES
{"=" * 83}
YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)
This typically refers to a problem with your application.
"""
OPEN_MPI = f"""{"-" * 74}
prterun noticed that process rank 1 with PID 4711 on node here exited on
signal 9 (Killed).
{"-" * 74}
"""
TABLE = f"{'=' * 83}\na table\n{'=' * 83}\n\nunder it\n"


@pytest.mark.parametrize("bad_news", [HYDRA, OPEN_MPI])
@pytest.mark.parametrize("before", ["", "printed\n", TABLE])
@pytest.mark.parametrize("is_torn", [True, False])
def test_bad_news_is_nobodys_output_nor_what_follows(bad_news, before, is_torn):
    sieve, said = Sieve(), before + bad_news
    lines = [f"{line}\n" for line in said.split("\n")[:-1]] if is_torn else [said]
    assert "".join(map(sieve.feed, lines)) == before
    assert sieve.feed("more\n") == ""


def test_what_a_program_prints_between_rulers_comes_as_it_is():
    assert Sieve().feed(TABLE) == TABLE


@pytest.mark.parametrize("line", ["[mpiexec@here] odd", "[proxy:0:1@here] odd", "srun: error: odd"])
def test_a_single_line_of_the_launchers_is_left_out(line):
    assert Sieve().feed(f"a\n{line}\nb\n") == "a\nb\n"


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_who_has_come_since_is_found_until_it_ends(request):
    spawned = Spawned(os.getpid())
    request.addfinalizer(spawned.close)
    assert spawned.running() == set()
    with subprocess.Popen(["sleep", "60"]) as one:
        assert wait_until(lambda: spawned.running() == {one.pid})
        one.kill()
        assert wait_until(lambda: spawned.running() == set())


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_who_goes_on_may_be_disregarded(request):
    spawned = Spawned(os.getpid())
    request.addfinalizer(spawned.close)
    with subprocess.Popen(["sleep", "60"]) as one:
        assert wait_until(lambda: spawned.running() == {one.pid})
        spawned.disregard(spawned.running())
        assert spawned.running() == set()
        one.kill()
