"""Ranks on two hosts, joined by a link of limited rate: what travels, who is named, what is left."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import nn

from cooptim_lab import PoolError, RankFailure, RankPool, RunStopped, Task, train_sharded
from cooptim_lab.hardware import find_mpiexec
from cooptim_lab.ranks.meeting import UNANSWERED_SECONDS, Meeting
from cooptim_lab.runs.events import Phase
from tests.hosts import can_make_hosts, two_hosts
from tests.support import PATIENCE_SECONDS, rank_processes, wait_until

# Without the mark `mpi`: a container may forbid namespaces also in CI.
pytestmark = pytest.mark.skipif(not can_make_hosts(), reason="network namespaces need root, iproute2 and permission")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with two_hosts(tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def far(hosts):
    """One rank here, two on the other host."""
    with RankPool(hosts=f"{hosts.a}:1,{hosts.b}:2", launcher=hosts.launcher()) as pool:
        pool.start()
        yield pool


def test_ranks_are_where_they_were_sent(far):
    assert [row["host"] for row in far.status()] == [socket.gethostname(), "b", "b"]
    assert far.run(lambda context: (context.comm.allreduce(context.rank), socket.gethostname()))[2] == (3, "b")
    assert all(row["memory"] > 1e6 and row["threads"] >= 1 for row in far.status())


def test_threads_are_those_of_each_host(far):
    cpus = len(os.sched_getaffinity(0))
    assert far.run(lambda context: context.threads) == [cpus, max(1, cpus // 2), max(1, cpus // 2)]


def crossed(hosts):
    """Bytes that went over the link to the other host."""
    return psutil.net_io_counters(pernic=True)[hosts.device].bytes_sent


def test_data_crosses_the_link_once_for_all_ranks_of_a_host(far, hosts):
    data = np.random.default_rng(0).random(500_000)  # 4 MB

    before = crossed(hosts)
    assert far.run(lambda context, data: float(data.sum()), data=data) == [float(data.sum())] * 3
    assert data.nbytes < crossed(hosts) - before < 1.3 * data.nbytes
    assert far.run(lambda context, data: data.__setitem__(0, 1.0) or float(data[0]), data=data) == [1.0] * 3


def test_one_memory_on_each_host_is_one_process(far, hosts):
    """One rank here, two there: what one process trains, whatever part of the weights is whose."""
    x = torch.randn(400, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    task = Task(model=narrow, data=(x, (x[:, 0] > 0).long()), optimizer=adam, clip=0.5, name="two hosts")
    options = {"pool": far, "workers": 3, "epochs": 2, "batch": 48}
    shared, ordered = (
        train_sharded(task, aggregate=way, **options).wait(PATIENCE_SECONDS) for way in ("shared", "ordered")
    )
    pairs = zip(shared.network.parameters(), ordered.network.parameters(), strict=True)
    assert max(float((a - b).detach().abs().max()) for a, b in pairs) < 1e-12
    sent = [part["sent"] / part["steps"] for part in shared.breakdown]
    numbers = sum(p.numel() for p in narrow().parameters())
    assert sent[0] == sent[1] > 8 * numbers  # the first of each host has all of them
    assert sent[2] == 0


def narrow():
    return nn.Sequential(nn.Linear(6, 30), nn.Tanh(), nn.Linear(30, 2)).double()


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


def test_what_each_rank_alone_is_sent_arrives_and_the_rest_once(far, hosts):
    parts = [{"part": np.full(100_000, float(rank))} for rank in range(3)]
    shared, before = np.zeros(500_000), crossed(hosts)
    sums = far.run(lambda context, shared, part: float(part.mean() + shared.sum()), per_rank=parts, shared=shared)
    assert sums == [0.0, 1.0, 2.0]
    assert crossed(hosts) - before < 1.3 * (shared.nbytes + 2 * parts[0]["part"].nbytes)


def test_a_job_that_is_stopped_while_its_data_travels_leaves_the_ranks_as_they_were(far, hosts, submit):
    pids, before = [row["pid"] for row in far.status()], crossed(hosts)
    run = submit(far, lambda context, data: None, workers=3, data=np.zeros(4_000_000))  # 32 MB: 2.6 s
    assert wait_until(lambda: crossed(hosts) - before > 1e6)
    run.stop()
    with pytest.raises(RunStopped):
        run.wait(PATIENCE_SECONDS)
    assert far.run(lambda context: context.rank) == [0, 1, 2]
    assert [row["pid"] for row in far.status()] == pids


def test_what_they_print_comes_whole(far, submit):
    def program(context):
        print(f"{context.rank} " + "ä" * 50_000)

    run = submit(far, program, workers=3)
    run.wait(PATIENCE_SECONDS)
    lines = "".join(event.text for event in run.log.since(0) if type(event).__name__ == "Output").splitlines()
    assert sorted(lines) == [f"{rank} " + "ä" * 50_000 for rank in range(3)]


def test_a_rank_that_fails_or_dies_on_the_other_host_is_named(hosts):
    def fail(context):
        if context.rank == 1:
            raise ZeroDivisionError("there")
        context.comm.Barrier()

    def die(context):
        if context.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        context.comm.Barrier()

    with RankPool(hosts=f"{hosts.a}:1,{hosts.b}:1", launcher=hosts.launcher()) as pool:
        with pytest.raises(RankFailure, match="rank 1 on b: ZeroDivisionError: there"):
            pool.run(fail)
        with pytest.raises(RankFailure, match=r"rank 1 on b: was killed \(SIGKILL"):
            pool.run(die)
        assert pool.run(lambda context: context.size) == [2, 2]


OWNER = """
import sys
from cooptim_lab import RankPool
pool = RankPool(hosts=sys.argv[1], launcher=sys.argv[2])
def spin(context):
    while True:
        context.comm.allreduce(1)
pool.run(lambda context: None)
print("ready", flush=True)
pool.run(spin)
"""


def test_when_the_owner_is_killed_nothing_is_left_on_either_host(hosts, nothing_left):
    places = f"{hosts.a}:1,{hosts.b}:1"
    command = [sys.executable, "-c", OWNER, places, hosts.launcher()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout.readline() == "ready\n"
        assert len(nothing_left()) >= 4
        owner.send_signal(signal.SIGKILL)


def test_the_key_is_in_no_process_list_and_no_environment(hosts, monkeypatch):
    keys = []
    read = Meeting.dumps
    monkeypatch.setattr(Meeting, "dumps", lambda self: keys.append(self.key) or read(self))
    with RankPool(hosts=f"{hosts.b}:1", launcher=hosts.launcher()) as pool:
        pool.start()
        (key,) = keys
        seen = 0
        for pid in rank_processes():
            for what in ("cmdline", "environ"):
                text = Path(f"/proc/{pid}/{what}").read_bytes()
                seen += len(text)
                assert key.hex().encode() not in text
                assert key not in text
        assert seen > 1000
        assert pool.run(lambda context: sys.stdin.read()) == [""]


def test_the_kernel_listens_on_the_shared_link_alone(hosts, monkeypatch):
    addresses = []
    read = Meeting.dumps
    monkeypatch.setattr(Meeting, "dumps", lambda self: addresses.append(self.address) or read(self))
    with RankPool(hosts=f"{hosts.a}:1,{hosts.b}:1", launcher=hosts.launcher()) as pool:
        pool.start()
    ((address, port),) = addresses
    assert address == hosts.a
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 2)


def test_a_host_that_vanishes_ends_the_run(tmp_path, submit, hear):
    def program(context):
        context.report(Phase(rank=context.rank, text="here"))
        time.sleep(600)

    with (
        two_hosts(tmp_path) as hosts,
        RankPool(hosts=f"{hosts.a}:1,{hosts.b}:1", launcher=hosts.launcher()) as pool,
    ):
        run = submit(pool, program, is_cooperative=False)
        hear(run, Phase, 2)
        hosts.cut()
        with pytest.raises((RankFailure, PoolError)):
            run.wait(3 * UNANSWERED_SECONDS)


def test_a_host_that_is_not_there_is_named(hosts, nothing_left):
    nothing_left()
    pool = RankPool(hosts="198.19.77.77:1", launcher=hosts.launcher())
    with pool, pytest.raises(PoolError, match=r"198\.19\.77\.77"):
        pool.start()
    with RankPool(1) as other:  # what `nothing_left` is to watch
        other.start()
        nothing_left()


def test_an_mpiexec_by_its_path_on_this_machine(nothing_left):
    launcher = f"{find_mpiexec() or shutil.which('mpiexec')} -n {{workers}}"
    with RankPool(2, launcher=launcher) as pool:
        assert pool.run(lambda context: context.comm.allreduce(1)) == [2, 2]
        nothing_left()
    assert wait_until(lambda: pool.status() == [])
