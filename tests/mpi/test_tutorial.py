"""Published mpi4py programs run as cells, unchanged: those of its tutorial, taken from its own source distribution."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from importlib.metadata import version

import pytest

from cooptim_lab import RankFailure
from cooptim_lab.ways import run_cell
from tests.support import PATIENCE_SECONDS

pytestmark = pytest.mark.mpi

TITLES = {
    "Python objects (:mod:`pickle` under the hood)": "point to point",
    "Python objects with non-blocking communication": "point to point",
    "NumPy arrays (the fast way!)": "point to point",
    "Broadcasting a Python dictionary": "broadcast",
    "Broadcasting a NumPy array": "broadcast",
    "Scattering Python objects": "scatter",
    "Scattering NumPy arrays": "scatter",
    "Gathering Python objects": "gather",
    "Gathering NumPy arrays": "gather",
    "Read from (write to) the entire RMA window": "one-sided",
}
JACOBI = "demo/mpi-ref-v1/ex-2.16.py"
"""Jacobi's iteration with Sendrecv and Allreduce; the tutorial's own Allreduce is for GPUs."""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The text of a file of mpi4py's source distribution, of the version that is installed."""
    folder = tmp_path_factory.mktemp("mpi4py")
    wanted = f"mpi4py=={version('mpi4py')}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "mpi4py", "-d", str(folder), wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    if done.returncode:
        pytest.skip(f"the source of {wanted} cannot be had: {done.stderr.strip().splitlines()[-1]}")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        top = tar.getnames()[0].split("/")[0]
        yield lambda path: tar.extractfile(f"{top}/{path}").read().decode()


def program(tutorial: str, title: str) -> str:
    """The code that follows a title of the tutorial."""
    found = re.search(re.escape(f"* {title}::") + r"\n\n((?:[ ]{3,}[^\n]*\n|\n)+)", tutorial)
    assert found is not None, title
    lines = found[1].rstrip().splitlines()
    indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return "\n".join(line[indent:] for line in lines)


@pytest.mark.parametrize("title", TITLES)
def test_a_program_of_the_tutorial(pool, published, title):
    source = program(published("docs/source/tutorial.rst"), title)
    run_cell(source, workers=2, pool=pool).wait(PATIENCE_SECONDS)
    if TITLES[title] in ("point to point", "broadcast"):
        here, there = run_cell("data if isinstance(data, dict) else data.tolist()", workers=2, pool=pool).wait(
            PATIENCE_SECONDS
        )
        assert here == there
        assert len(here) >= 2


def test_jacobis_iteration_with_allreduce(pool, published):
    run_cell(published(JACOBI), workers=2, pool=pool).wait(PATIENCE_SECONDS)
    values = run_cell("converged, float(abs(B).max()) < 1e-7", workers=2, pool=pool).wait(PATIENCE_SECONDS)
    assert values == [(True, True)] * 2


def test_a_program_that_is_wrong_is_seen_to_be(pool, published):
    """The programs check themselves: one that is changed must fail, or the tests above could not."""
    source = program(published("docs/source/tutorial.rst"), "Read from (write to) the entire RMA window")
    with pytest.raises(RankFailure, match=r"rank 1 .*AssertionError"):
        run_cell(source.replace("assert np.all(buf == 42)", "assert np.all(buf == 43)"), workers=2, pool=pool).wait(
            PATIENCE_SECONDS
        )
