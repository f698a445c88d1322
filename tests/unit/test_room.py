"""How many files a process may have open, beside how many its ranks need."""

from __future__ import annotations

import pytest

from tests.support import run_python

SCRIPT = """
import resource, sys
from cooptim_lab.errors import PoolError
from cooptim_lab.ranks.room import make_room_for_connections
soft, hard, workers = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
try:
    make_room_for_connections(workers)
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
except PoolError as error:
    print(error)
"""


def limit_for(soft: int, hard: int, workers: int) -> str:
    done = run_python(SCRIPT, *map(str, (soft, hard, workers)))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_usual_limit_is_raised_where_many_ranks_need_it_and_left_where_not():
    assert limit_for(1024, 4096, 64) == "1024"
    assert 4 * 500 < int(limit_for(1024, 4096, 500)) < 4096
    assert limit_for(1024, 4096, 1000) == "4096"


@pytest.mark.parametrize("soft", [256, 1024])
def test_more_than_the_system_allows_are_refused_with_how_many_fit(soft):
    said = limit_for(soft, 1024, 300)
    assert said.startswith("300 ranks need 12")
    assert "the system allows 1024: there is room for 25" in said
