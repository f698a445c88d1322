"""What several tests need: waiting with a deadline, looking for leftovers, one rank without MPI, small tasks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from cooptim_lab import InputError, Task
from cooptim_lab.hardware import find_mpiexec
from cooptim_lab.ranks.forking import current_nursery

ROOT = Path(__file__).resolve().parents[1]
GONE_SECONDS = 3.0
"""By then nothing of a killed owner may be left."""
PATIENCE_SECONDS = 60
"""A deadline that is only there so that a test ends; a loaded machine does not reach it."""


def run_python(source: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A script in a fresh interpreter; its output as text."""
    return subprocess.run(
        [sys.executable, "-c", source, *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
        **options,
    )


def run_ranks(program: Path, ranks: int, *arguments: int | Path, seconds: float = PATIENCE_SECONDS) -> None:
    """A program under mpiexec; a rank that fails, or a deadline that passes, fails the test with what was printed."""
    mpiexec = find_mpiexec()
    if mpiexec is None:
        pytest.skip("mpiexec is not installed")
    # `-m mpi4py` aborts all ranks when one raises, so that no other waits for it.
    command = [str(mpiexec), "-n", str(ranks), sys.executable, "-m", "mpi4py", str(program), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            output, _ = process.communicate()
            pytest.fail(f"{program.name} on {ranks} ranks did not end:\n{output}")
    assert process.returncode == 0, output


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> bool:
    """Whether a condition came true before the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def rank_processes() -> set[int]:
    """Living processes of ranks, launcher, guard and nursery that this test session has started, however related.

    This process's own nursery, and its guard, are not among them: they are there for the whole session.
    """
    home, found, nursery = os.environ["COOPTIM_HOME"], set(), current_nursery()
    for process in psutil.process_iter():
        try:
            is_ours = re.search(r"cooptim_lab[./]ranks", " ".join(process.cmdline()))
            if nursery is not None and nursery.guard in (process.pid, process.ppid()):
                continue
            if is_ours and process.environ().get("COOPTIM_HOME") == home and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
        except psutil.Error:  # it ended meanwhile, or belongs to somebody else
            continue
    return found


def traces(processes: set[int]) -> set[Path]:
    """What these processes could leave behind: the shared memory they have mapped, the directory with their key."""
    found, nursery = set(), current_nursery()
    for pid in processes:
        try:
            words = psutil.Process(pid).cmdline()
        except psutil.Error:  # it has ended meanwhile, as one that was killed does
            continue
        found.update(Path(word) for word in words if Path(word).name.startswith("cooptim-"))
        maps = Path(f"/proc/{pid}/maps")
        if nursery is not None:
            found.discard(nursery.directory)  # what ranks have been forked from shows in their command line
        lines = maps.read_text().splitlines() if maps.exists() else []
        found.update(Path(line.split(maxsplit=5)[5]) for line in lines if "/dev/shm/mpich" in line)
    return found


def clean_up(processes: set[int], files: set[Path]) -> None:
    """End and remove what a failed test has left."""
    for pid in processes:
        with suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()
    for path in files:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def refused(*parts: str) -> Iterator[None]:
    """The body raises an InputError of one line that holds every one of `parts`."""
    with pytest.raises(InputError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in parts if part not in message] == [], message


class SoloComm:
    """The communicator of one rank, without MPI: what a program may ask of it."""

    def Get_rank(self) -> int:
        return 0

    def Get_size(self) -> int:
        return 1

    def Barrier(self) -> None:
        pass

    def gather(self, value: Any, root: int) -> list[Any]:
        return [value]

    def allgather(self, value: Any) -> list[Any]:
        return [value]

    def bcast(self, value: Any, root: int) -> Any:
        return value

    def allreduce(self, value: Any) -> Any:
        return value

    def Iallreduce(self, send: Any, receive: Any) -> SoloComm:
        receive[...] = send
        return self

    def Iallgather(self, send: Any, receive: Any) -> SoloComm:
        receive[...] = send
        return self

    def Igather(self, send: Any, receive: Any, root: int) -> SoloComm:
        receive[0] = send
        return self

    def Ibcast(self, buffer: Any, root: int) -> SoloComm:
        return self

    def Test(self) -> bool:
        """As the request of the calls above: always complete."""
        return True


def learning_by(optimizer: Any) -> Task:
    """A task of which only the optimizer matters."""
    return Task(model=lambda: None, data=([[0.0], [1.0]], [0, 1]), optimizer=optimizer)
