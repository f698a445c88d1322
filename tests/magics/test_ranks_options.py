"""`%%cooptim ranks` with --push, --only and --timeout."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.mpi


def test_pushed_names_are_there_and_stay(notebook, ranks):
    notebook.names["rows"] = np.ones(200_000)
    assert notebook.run("%%cooptim ranks --push rows\nfloat(rows.sum())").stdout.count("200000.0") == 2
    assert notebook.run("%%cooptim ranks\nlen(rows)").stdout.count("200000") == 2


def test_only_some_run_it(notebook, ranks):
    shown = notebook.run("%%cooptim ranks --only 1\n(rank, size, comm.Get_rank())").stdout
    assert shown == "[1] (1, 1, 0)\n"


@pytest.mark.parametrize(
    ("cell", "parts"),
    [
        ("%%cooptim ranks --push nosuch\n1", ["--push nosuch", "no variable"]),
        ("%%cooptim ranks --only 2\n1", ["only = 2", "from 0 to 1"]),
        ("%%cooptim ranks --only x\n1", ["--only x", "whole numbers"]),
        ("%%cooptim ranks --timeout 0\n1", ["--timeout = 0", "1 or more"]),
    ],
)
def test_mistakes(notebook, ranks, cell, parts):
    message = notebook.refuse(cell)
    assert [part for part in parts if part not in message] == [], message


def test_what_takes_too_long_is_interrupted_and_the_ranks_stay(notebook, ranks):
    notebook.run("%%cooptim ranks\nkept = rank")
    message = notebook.refuse("%%cooptim ranks --timeout 1\nimport time\nif rank: time.sleep(60)")
    assert message == "not done after 1 s: rank 1 was interrupted"
    assert notebook.run("%%cooptim ranks\nkept").stdout == "[0] 0\n[1] 1\n"
