"""Starting ranks: who may connect, and what is said when there is no MPI or the wrong one."""

from __future__ import annotations

import gc
import os
import queue
import shutil
import socket
import stat
import subprocess
import sys
import threading
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection
from pathlib import Path

import psutil
import pytest

from cooptim_lab import PoolError, RankPool, RunStopped
from cooptim_lab.ranks import forking, launch, places, rankset
from cooptim_lab.ranks.guarding import Guard
from cooptim_lab.ranks.launch import Launch
from cooptim_lab.ranks.meeting import HANDSHAKE_SECONDS, Door, Meeting
from cooptim_lab.ranks.rankset import RankSet
from cooptim_lab.ranks.traces import TOPOLOGY, open_files
from cooptim_lab.runs.events import Phase
from tests.support import GONE_SECONDS, PATIENCE_SECONDS, rank_processes, wait_until

pytestmark = pytest.mark.mpi


def test_a_stranger_is_refused_and_does_not_hurt_the_start(monkeypatch, nothing_left):
    directory = places.make_directory()
    monkeypatch.setattr(rankset, "make_directory", lambda: directory)
    ranks = RankSet(2, queue.SimpleQueue(), Launch())
    start = threading.Thread(target=ranks.start)
    start.start()
    try:
        with pytest.raises(AuthenticationError):
            connect_when_it_listens(directory / "socket", key=b"a guess")
        start.join(PATIENCE_SECONDS)
        assert len(nothing_left()) >= 4
        assert sorted(ranks.hellos) == [0, 1]
        assert {hello.size for hello in ranks.hellos.values()} == {2}
        assert len({hello.pid for hello in ranks.hellos.values()}) == 2
    finally:
        start.join(PATIENCE_SECONDS)
        ranks.close()


def connect_when_it_listens(socket: Path, *, key: bytes) -> None:
    """A client with this key; before the socket is there and listens, it tries again."""

    def tried() -> bool:
        try:
            Client(str(socket), family="AF_UNIX", authkey=key).close()
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    assert wait_until(tried)


def test_the_key_is_nobody_elses_to_read():
    directory = places.make_directory()
    try:
        with Door(directory):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
            assert {stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()} == {0o600}
            assert len(Meeting.read(directory).key) == 32
    finally:
        shutil.rmtree(directory)


def test_one_who_says_nothing_keeps_nobody_waiting(tmp_path):
    with Door(tmp_path, "127.0.0.1") as door:
        told = Meeting.read(tmp_path)
        with socket.create_connection(told.address), socket.create_connection(told.address):
            told.connect("stdout", 3).close()
            arrival = door.arrivals.get(timeout=HANDSHAKE_SECONDS / 2)
            arrival.connection.close()
    assert (arrival.role, arrival.rank, arrival.hello) == ("stdout", 3, None)


def test_who_does_not_know_the_key_is_not_heard(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "unpickled"),)

    with Door(tmp_path, "127.0.0.1") as door:
        told = Meeting.read(tmp_path)
        with pytest.raises(AuthenticationError):
            Meeting(told.address, b"a guess").connect("control", 0)
        with socket.create_connection(told.address) as reached, Connection(os.dup(reached.fileno())) as connection:
            connection.send(Trap())  # in place of the answer to the challenge
            while connection.poll(HANDSHAKE_SECONDS / 2):
                try:
                    connection.recv_bytes()
                except (EOFError, OSError):
                    break
        with pytest.raises(queue.Empty):
            door.arrivals.get(timeout=0.2)
    assert not (tmp_path / "unpickled").exists()


def test_a_long_temporary_directory_is_no_trouble(tmp_path, monkeypatch, nothing_left):
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(places.tempfile, "tempdir", str(long))
    with RankPool(1) as pool:
        assert pool.run(lambda context: context.rank) == [0]
        nothing_left()
    assert list(long.iterdir()) == []


def test_a_nursery_finds_a_short_place_too_and_programs_their_own(tmp_path, monkeypatch):
    """83 characters: a socket's path in a directory of its own would be too long there."""
    long = Path(str(tmp_path / ("x" * 83))[:83])
    long.mkdir(exist_ok=True)
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.setattr(places.tempfile, "tempdir", None)
    monkeypatch.setattr(forking, "_shared", None)
    try:
        with RankPool(1) as pool:
            seen = pool.run(lambda context: (os.environ["TMPDIR"], __import__("tempfile").gettempdir(), os.getppid()))
        assert seen == [(str(long), str(long), forking.current_nursery().pid)]
    finally:
        forking.close_shared_nursery()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process has open")
def test_a_start_cut_short_leaves_no_topology_of_the_launchers(monkeypatch, tmp_path):
    """The launcher has written it to /tmp and, halted, does not come to remove it."""
    mpiexec = launch.find_mpiexec()
    program = "from mpi4py import MPI; import time; time.sleep(600)"
    directory = places.make_directory()
    guard = Guard(directory, Path(os.devnull), [str(mpiexec), "-n", "2", sys.executable, "-c", program], os.environ)
    found: list[tuple[psutil.Process, str]] = []

    def has_written() -> bool:
        tree = psutil.Process(guard.pid).children(recursive=True)
        files = [(process, file) for process in tree for file in open_files(process.pid) if file.startswith(TOPOLOGY)]
        found.extend(files[:1])
        return bool(found)

    try:
        if not wait_until(has_written, 10):
            pytest.skip("this launcher writes none")
        for process in psutil.Process(guard.pid).children(recursive=True):
            process.suspend()
    finally:
        guard.end()
        guard.wait(PATIENCE_SECONDS)
        guard.close()
    process, file = found[0]
    assert not process.is_running()
    assert not Path(file).exists()
    assert not directory.exists()


IN_SMALL_MEMORY = """
from cooptim_lab import PoolError, RankPool
from cooptim_lab.ranks import rankset
with RankPool(3) as pool:
    print(pool.run(lambda context: context.comm.allreduce(1)))
with RankPool(4) as pool:
    try:
        pool.start()
    except PoolError as error:
        print(error)
rankset.check_shared_memory = lambda workers: None
with RankPool(4) as pool:
    try:
        pool.start()
    except PoolError as error:
        print(error)
"""


@pytest.mark.parametrize("nursery", ["on", "off"])
def test_where_shared_memory_is_too_small_it_is_said_and_how_many_fit(nursery):
    script = 'mount -t tmpfs -o size=3400k tmpfs /dev/shm && exec "$0" -c "$1"'
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a mount of one's own is not allowed here")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable, IN_SMALL_MEMORY],
        capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
        env={**os.environ, forking.SWITCH: nursery},
    )  # fmt: skip
    worked, refused, failed = done.stdout.splitlines()
    assert worked == "[3, 3, 3]"
    assert refused.startswith("/dev/shm is full (3.32 MB): 4 ranks need 4.25 MB, there is room for 3; ask for fewer")
    if nursery == "on":  # which sees how each rank ended; the launcher tells of one that it has killed itself
        assert failed == "the ranks ended before they were ready: /dev/shm is full (3.32 MB)"


def failed_start(monkeypatch, mpiexec: Path | None) -> str:
    """What is said when a pool of two is started with this mpiexec; the same for every try."""
    monkeypatch.setattr(launch, "find_mpiexec", lambda: mpiexec)
    with RankPool(2) as pool:
        for try_ in (pool.start, lambda: pool.run(lambda context: None)):
            with pytest.raises(PoolError) as caught:
                try_()
            assert "\n" not in str(caught.value)
    gc.collect()  # a socket that was left open is told of here, and not in some later test
    return str(caught.value)


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return path


def test_no_mpiexec(monkeypatch):
    said = failed_start(monkeypatch, None)
    assert "mpiexec not found" in said
    assert "pip install mpich" in said


def test_an_mpiexec_that_fails_is_quoted(monkeypatch, tmp_path):
    said = failed_start(monkeypatch, script(tmp_path / "mpiexec", "echo no slots for $2 ranks >&2; exit 3"))
    assert "no slots for 2 ranks" in said


def test_an_mpiexec_that_cannot_be_run_is_an_error_of_the_pool(monkeypatch, tmp_path):
    (tmp_path / "mpiexec").write_text("")
    said = failed_start(monkeypatch, tmp_path / "mpiexec")
    assert "mpiexec" in said
    assert "Traceback" not in said


def test_the_mpi_of_another_library_is_not_taken_for_ranks(monkeypatch, tmp_path):
    before = rank_processes()
    # Each process that such an mpiexec starts believes that it is the only rank.
    alone = script(tmp_path / "mpiexec", 'shift 2; "$@" & "$@" & wait')
    said = failed_start(monkeypatch, alone)
    assert "asked for 2 ranks, each found 1" in said
    assert wait_until(lambda: rank_processes() <= before, GONE_SECONDS)


def test_a_stop_while_the_ranks_start_ends_the_start(nothing_left, submit, hear):
    with RankPool(2) as pool:
        run = submit(pool, lambda context: None)
        hear(run, Phase, by_ranks=False)
        run.stop()
        with pytest.raises(RunStopped):
            run.wait(PATIENCE_SECONDS)
        assert pool.run(lambda context: context.rank) == [0, 1]
        nothing_left()
    gc.collect()


def test_modules_of_the_kernels_path_are_found_on_the_ranks(tmp_path, monkeypatch):
    (tmp_path / "beside_the_notebook.py").write_text("value = 42\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with RankPool(1) as fresh:
        assert fresh.run(lambda context: __import__("beside_the_notebook").value) == [42]
    assert "beside_the_notebook" not in sys.modules
