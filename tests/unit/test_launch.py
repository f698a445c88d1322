"""What a user types of hosts and launchers, and the command and the interface that come of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cooptim_lab import InputError, PoolError, RankPool
from cooptim_lab.hardware import find_mpiexec
from cooptim_lab.ranks import launch, room, wire
from cooptim_lab.ranks.cpus import crowded, share_cpus
from cooptim_lab.ranks.ends import describe_end, end_in_words_of_launcher
from cooptim_lab.ranks.launch import LOOPBACK, Launch, rank_environment
from tests.support import refused


def hello(rank: int, machine: str = "m", cpus: int = 2, affinity: tuple[int, ...] = (0, 1)) -> wire.Hello:
    return wire.Hello(rank, 4, machine.upper(), 100 + rank, "MPI", machine, cpus, affinity)


def test_without_hosts_and_launcher_it_is_this_machine():
    launch = Launch.parse()
    assert launch.is_here
    assert launch.room is None
    assert launch.address() is None
    assert launch.command(3) == [str(find_mpiexec()), "-n", "3"]


def test_hosts_have_room():
    launch = Launch.parse(hosts="a:4, node-1.cluster:2,c")
    assert launch.hosts == (("a", 4), ("node-1.cluster", 2), ("c", 1))
    assert launch.room == 7
    assert launch.command(7)[1:] == ["-n", "7", "-host", "a:4,node-1.cluster:2,c:1"]
    with refused("workers = 8", "a:4,node-1.cluster:2,c:1", "room for 7"):
        launch.command(8)
    with refused("workers = 3", "room for 2"):
        RankPool(3, hosts="a:2")


@pytest.mark.parametrize("hosts", ["", "a:0", "a:-1", "a:b", "a,,b", "-x:2", "a b:2", "a:2;rm", "$(id):2", "ä:2"])
def test_hosts_that_are_none_are_refused(hosts):
    with refused(f"--hosts {hosts}", "a:4,b:4"):
        Launch.parse(hosts=hosts)


def test_a_launcher_is_words_and_no_shell(tmp_path):
    run = tmp_path / "run it"
    run.write_text("")
    run.chmod(0o700)
    launch = Launch.parse(launcher=f"'{run}' --mpi=pmi2 -n{{workers}} --name '$HOME {{x}}; ls'")
    assert launch.command(5) == [str(run), "--mpi=pmi2", "-n5", "--name", "$HOME {x}; ls"]


def test_doubled_braces_are_as_good_as_single_ones(tmp_path):
    run = tmp_path / "run"
    run.write_text("")
    run.chmod(0o700)
    assert Launch.parse(launcher=f"{run} -n {{{{workers}}}}").command(5) == [str(run), "-n", "5"]


def test_shared_memory_has_room_for_so_many(monkeypatch):
    sizes = {"f_frsize": 4096, "f_blocks": 2048, "f_bavail": 1024}
    monkeypatch.setattr(room.os, "statvfs", lambda path: SimpleNamespace(**sizes))
    room.check_shared_memory(3)
    with pytest.raises(PoolError, match=r"full \(8 MB, of which 4 MB are free\): 4 ranks need 4.25 MB, .* for 3; ask"):
        room.check_shared_memory(4)
    sizes["f_blocks"] = 0  # no limit of its own
    room.check_shared_memory(1000)


@pytest.mark.parametrize("launcher", ["srun -n 4", "", "'srun {workers}"])
def test_a_launcher_that_cannot_work_is_refused(launcher):
    with refused(f"--launcher {launcher}"):
        Launch.parse(launcher=launcher)


def test_a_launcher_with_hosts_says_where_they_go():
    with refused("--launcher mpiexec -n {workers}", "{hosts}"):
        Launch.parse(hosts="a:1", launcher="mpiexec -n {workers}")
    launch = Launch.parse(hosts="a:1", launcher="mpiexec -n {workers} -hosts {hosts}")
    assert launch.command(1)[1:] == ["-n", "1", "-hosts", "a:1"]


def test_a_launcher_that_is_not_there_is_named():
    with pytest.raises(PoolError, match="launcher no-such-launcher not found"):
        Launch.parse(launcher="no-such-launcher -n {workers}").command(1)


def test_an_interface_by_name_or_address_or_none_at_all():
    assert Launch.parse(hosts="localhost", interface="lo").address() == LOOPBACK
    assert Launch.parse(hosts="localhost", interface=LOOPBACK).address() == LOOPBACK
    assert Launch.parse(hosts="localhost").address() == LOOPBACK
    with pytest.raises(PoolError, match=r"no such interface; it has .*lo"):
        Launch.parse(hosts="localhost", interface="nope").address()
    with pytest.raises(PoolError, match=r"host no-such-host\.invalid cannot be reached"):
        Launch.parse(hosts="no-such-host.invalid").address()
    with pytest.raises(InputError, match="--interface goes with"):
        Launch.parse(interface="lo")


def test_ranks_wait_asleep_only_where_there_are_more_of_them_than_cpus(monkeypatch):
    monkeypatch.delenv("MPIR_CVAR_ENABLE_HEAVY_YIELD", raising=False)
    monkeypatch.setattr(launch, "allowed_cpus", lambda: 2)
    assert "MPIR_CVAR_ENABLE_HEAVY_YIELD" not in rank_environment(Launch(), 2)
    assert rank_environment(Launch(), 3)["MPIR_CVAR_ENABLE_HEAVY_YIELD"] == "1"
    assert "MPIR_CVAR_ENABLE_HEAVY_YIELD" not in rank_environment(Launch.parse(hosts="a:2,b:2"), 3)
    monkeypatch.setenv("MPIR_CVAR_ENABLE_HEAVY_YIELD", "0")
    assert rank_environment(Launch(), 3)["MPIR_CVAR_ENABLE_HEAVY_YIELD"] == "0"  # what the user has set stays


def test_threads_are_the_cpus_of_each_machine_over_its_ranks():
    assert share_cpus([hello(0), hello(1)]) == [1, 1]
    assert share_cpus([hello(0, cpus=8), hello(1, cpus=8), hello(2, "n", cpus=6)]) == [4, 4, 6]
    assert share_cpus([hello(rank) for rank in range(4)]) == [1] * 4


def test_a_rank_that_is_bound_has_its_own_cpus():
    bound = [hello(0, cpus=2, affinity=(0, 1)), hello(1, cpus=2, affinity=(2, 3))]
    assert share_cpus(bound) == [2, 2]
    assert crowded(bound) == []


def test_more_ranks_than_cpus_are_told_of_by_machine():
    assert crowded([hello(0), hello(1)]) == []
    assert crowded([hello(rank) for rank in range(3)]) == [
        "3 workers share 2 CPUs: they take turns, do not expect a speedup"
    ]
    two = [hello(0, "n", cpus=1), hello(1), hello(2), hello(3)]
    assert crowded(two) == ["3 workers share 2 CPUs on M: they take turns, do not expect a speedup"]


def test_ends_in_the_words_of_launchers():
    mpich = "=   RANK 1 PID 77 RUNNING AT b\n=   KILLED BY SIGNAL: 9\n=   EXIT CODE: 9"
    assert end_in_words_of_launcher(mpich, 77) == -9
    assert end_in_words_of_launcher(mpich, 7) is None
    open_mpi = "prterun noticed that process rank 1 with PID 77 on node b exited on\nsignal 11 (Segmentation fault)."
    assert end_in_words_of_launcher(open_mpi, 77) == -11


def test_an_end_is_described_with_what_is_known_of_its_cause():
    assert describe_end(3) == "ended with exit code 3"
    assert describe_end(-11) == "was killed (SIGSEGV)"
    assert "OOM killer" in describe_end(-9, out_of_memory=True)
    assert "not for want of memory" in describe_end(-9, out_of_memory=False)
    assert "by hand, or" in describe_end(-9)
