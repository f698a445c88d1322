"""What the ranks of a host share, without ranks: processes that meet in one memory, and what is left of it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest

from cooptim_lab.comm import host as one_host
from cooptim_lab.comm.host import Host, Meeting, find_host, share
from tests.support import SoloComm, refused

# Newer Pythons warn of a fork beside other threads; what is forked here only counts.
pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
by_words = pytest.mark.skipif(not one_host.HAS_FUTEX, reason="ranks meet by MPI on this processor")
TIMES, PATIENCE = 2000, 60
ALONE = Host((0,), 0, 1, 1)


class Deaf:
    """In a timeline's place."""

    def called(self, *told: object) -> None:
        """Nothing."""


def descriptors() -> list[str]:
    """Those of this process whose file is of ours."""
    known = [str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return [each for each in known if Path(each.removeprefix("/memfd:")).name.startswith("cooptim")]


def mappings() -> int:
    """The same of its memory. A mapping keeps a descriptor of its own."""
    text = Path("/proc/self/maps").read_text()
    return sum(text.count(f"{mark}cooptim") for mark in ("memfd:", "held/"))


@pytest.mark.parametrize("has_memfd", [True, False])
def test_memory_has_no_name_and_goes_with_the_last_array(monkeypatch, tmp_path, has_memfd):
    folder = tmp_path / "held"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    if not has_memfd:
        monkeypatch.delattr(os, "memfd_create")
    memory = share(SoloComm(), ALONE, 1 << 20)
    array = np.frombuffer(memory, np.float64)
    del memory
    array[:] = 1
    assert array.sum() == 1 << 17
    assert list(folder.iterdir()) == []
    assert mappings() == 1
    del array
    gc.collect()
    assert mappings() == 0
    assert descriptors() == []


def test_memory_that_cannot_be_had_is_refused_in_a_line(monkeypatch):
    def no_room(made: int, start: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with refused("3 MB that all ranks of a host share cannot be had there", "No space left", "by allreduce"):
        share(SoloComm(), ALONE, 3_000_000)
    assert descriptors() == []


def test_one_rank_is_on_one_host():
    assert find_host(SoloComm()) == ALONE


def meeting(memory, place, size):
    return Meeting(None, Host(tuple(range(size)), place, size, 1), memory, Deaf())


def add_in_turns(memory, place, size, meets):
    """Each in turn adds 1 to one number: without a meeting between them, some would be lost."""
    room = meeting(memory, place, size)
    number = np.frombuffer(memory, np.int64, 1, 4096)
    for turn in range(TIMES):
        if turn % size == place:
            known = int(number[0])
            if not meets:
                time.sleep(0)  # another's turn meanwhile
            number[0] = known + 1
        if meets:
            room.meet()


def counted(size, *, meets):
    memory = share(SoloComm(), ALONE, 8192)
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=add_in_turns, args=(memory, place, size, meets)) for place in range(size)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(PATIENCE)
        assert rank.exitcode == 0
    return int(np.frombuffer(memory, np.int64, 1, 4096)[0])


@by_words
@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("looks", [0, one_host.PATIENCE])
def test_who_meets_loses_nothing(size, looks, monkeypatch):
    """`looks`: all sleep and are woken; or all look."""
    monkeypatch.setattr(one_host, "PATIENCE", looks)
    monkeypatch.setattr(one_host, "IMPATIENCE", looks)
    assert counted(size, meets=True) == TIMES


@by_words
def test_a_sleeper_uses_no_cpu_and_wakes_soon():
    memory = share(SoloComm(), ALONE, 4096)
    fork = multiprocessing.get_context("fork")
    ends, other = fork.Pipe()

    def wait() -> None:
        began = time.process_time()
        meeting(memory, 1, 2).meet()
        other.send((time.process_time() - began, time.monotonic()))

    rank = fork.Process(target=wait)
    rank.start()
    time.sleep(0.5)
    came = time.monotonic()
    meeting(memory, 0, 2).meet()
    cpu, woke = ends.recv()
    rank.join(PATIENCE)
    assert cpu < 0.25  # of half a second; one that looks all the time has all of it
    assert woke >= came
