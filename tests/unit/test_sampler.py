"""What is seen of a machine from moment to moment, on machines built of files; and who keeps the sampler at work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cooptim_lab.hardware.gpus import GpuMeter
from cooptim_lab.hardware.sampler import Core, Sample, Sampler
from cooptim_lab.hardware.watching import Watch, trouble
from tests.support import wait_until

TICK = os.sysconf("SC_CLK_TCK")
V2 = {"proc/self/mountinfo": "1 1 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup rw"}
V1 = {
    "proc/self/mountinfo": "1 1 0:1 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
    "2 1 0:2 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
}


def write(root: Path, files: dict[str, str]) -> None:
    for name, said in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{said}\n")


def stat(**cpus: tuple[float, float]) -> dict[str, str]:
    """/proc/stat with these (busy, stolen) seconds."""
    lines = [
        f"{name} {round(busy * TICK)} 0 0 0 0 0 0 {round(stolen * TICK)} 0 0" for name, (busy, stolen) in cpus.items()
    ]
    return {"proc/stat": "\n".join(lines)}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes a sampler of a machine of files, lets these become others over ten seconds, and takes a sample."""
    clock = [100.0]
    monkeypatch.setattr("cooptim_lab.hardware.sampler.time.monotonic", lambda: clock[0])

    def take(before: dict[str, str], after: dict[str, str], allowed=frozenset({0, 1}), ranks=dict) -> Sample:
        monkeypatch.setattr("cooptim_lab.hardware.sampler.affinity", lambda: allowed and set(allowed))
        write(tmp_path, before)
        sampler = Sampler(ranks, root=tmp_path)
        write(tmp_path, after)
        clock[0] += 10
        sample = sampler.take()
        sampler.close()
        return sample

    return take


class TestCores:
    def test_each_that_is_allowed(self, machine):
        before, after = stat(cpu0=(0, 0), cpu1=(5, 1), cpu2=(0, 0)), stat(cpu0=(10, 0), cpu1=(7.5, 3), cpu2=(3, 0))
        assert machine(before, after).cores == (Core(0, 1.0, 0.0), Core(1, 0.25, 0.2))
        assert machine(before, after, {2}).cores == (Core(2, 0.3, 0.0),)
        assert [core.number for core in machine(before, after, None).cores] == [0, 1, 2]

    def test_stolen_is_of_all_their_time(self, machine):
        assert machine(stat(cpu0=(0, 0), cpu1=(0, 0)), stat(cpu0=(0, 2), cpu1=(0, 1))).stolen == pytest.approx(0.15)

    @pytest.mark.parametrize("said", ["", "cpu 1 2 3", "cpu0 1 2", "cpu0 a b c d e f g h"])
    def test_what_cannot_be_read_is_unknown(self, machine, said):
        sample = machine(stat(cpu0=(0, 0), cpu1=(0, 0)), {"proc/stat": said})
        assert sample.cores == () and sample.stolen is None
        assert (sample.quota, sample.memory, sample.throttled) == (None, None, None)

    def test_a_cpu_that_came_later_is_left_out(self, machine):
        sample = machine(stat(cpu0=(0, 0)), stat(cpu0=(1, 0), cpu1=(1, 0)), None)
        assert [core.number for core in sample.cores] == [0]


class TestLimits:
    @pytest.mark.parametrize(
        ("written", "quota"), [("50000 100000", 0.5), ("150000 100000", 1.5), ("max 100000", None)]
    )
    def test_version_2(self, machine, written, quota):
        files = {**V2, "proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/cpu.max": written}
        assert machine(files, {}).quota == quota

    @pytest.mark.parametrize(("written", "quota"), [("50000", 0.5), ("150000", 1.5), ("-1", None)])
    def test_version_1(self, machine, written, quota):
        cpu = "sys/fs/cgroup/cpu/a/cpu.cfs"
        files = {**V1, "proc/self/cgroup": "4:cpu,cpuacct:/a", f"{cpu}_quota_us": written, f"{cpu}_period_us": "100000"}
        assert machine(files, {}).quota == quota

    def test_of_nested_groups_the_tightest(self, machine):
        groups = {"sys/fs/cgroup/cpu.max": "max 100000", "sys/fs/cgroup/a/cpu.max": "50000 100000"}
        files = {**V2, **groups, "proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "150000 100000"}
        assert machine(files, {}).quota == 0.5

    def test_throttling_of_both_versions(self, machine):
        def told(throttled, unit, seconds):
            return f"nr_periods {100 + 2 * throttled}\nnr_throttled {throttled}\n{unit} {seconds}"

        place = "sys/fs/cgroup/a/cpu.stat"
        files = {**V2, "proc/self/cgroup": "0::/a", place: told(10, "throttled_usec", 1000)}
        assert machine(files, {place: told(40, "throttled_usec", 9000)}).throttled == 0.5
        place = "sys/fs/cgroup/cpu/a/cpu.stat"
        files = {**V1, "proc/self/cgroup": "4:cpu,cpuacct:/a", place: told(10, "throttled_time", 1000)}
        assert machine(files, {place: told(40, "throttled_time", 9000)}).throttled == 0.5

    def test_memory_of_the_host_and_of_a_group(self, machine):
        host = {"proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 600 kB"}
        sample = machine(host, {})
        assert (sample.memory, sample.memory_limit) == (400 << 10, 1000 << 10)
        group = {**V2, "proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/memory.max": "500000"}
        sample = machine({**host, **group, "sys/fs/cgroup/a/memory.current": "300000"}, {})
        assert (sample.memory, sample.memory_limit) == (300000, 500000)


class TestRanks:
    def test_where_each_ran_last(self, machine):
        def process(pid, cpu):
            return {f"proc/{pid}/stat": f"{pid} (py) 3) S " + " ".join(["1"] * 35) + f" {cpu} 0 0"}

        files = {**process(11, 1), **process(12, 0), "proc/13/stat": "13 (x) S 1"}
        sample = machine(files, {}, ranks=lambda: {0: 11, 1: 12, 2: 13, 3: 14})
        assert sample.ranks == {0: 1, 1: 0}
        assert json.loads(json.dumps(sample.summary()))["ranks"] == {"0": 1, "1": 0}

    def test_of_this_process_itself(self):
        if sys.platform != "linux":
            pytest.skip("there is no /proc")
        sampler = Sampler(lambda: {0: os.getpid()})
        sample = sampler.take()
        assert sample.ranks[0] in os.sched_getaffinity(0)
        assert {core.number for core in sample.cores} <= os.sched_getaffinity(0)
        assert sample.memory_limit and 0 < sample.memory < sample.memory_limit


VERSIONS = (  # a file that only a real hierarchy has, where groups are, what a tenth of a CPU is written to
    (Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), Path("/sys/fs/cgroup/cpu"), "cpu.cfs_quota_us", "10000"),
    (Path("/sys/fs/cgroup/cgroup.controllers"), Path("/sys/fs/cgroup"), "cpu.max", "10000 100000"),
)


@pytest.fixture
def tenth_of_a_cpu():
    """A cgroup of this machine with a tenth of a CPU, of whichever version it has."""
    place = None
    for mark, top, name, written in VERSIONS:
        if not mark.exists():
            continue
        place = top / f"cooptim-test-{os.getpid()}"
        try:
            place.mkdir()
            (place / name).write_text(written)
        except OSError as error:
            if place.is_dir():
                place.rmdir()
            pytest.skip(f"no cgroup can be made here: {error.strerror}")
        break
    if place is None:
        pytest.skip("there are no cgroups here")
    yield place
    assert wait_until(lambda: not (place / "cgroup.procs").read_text())
    place.rmdir()


def test_in_a_real_group_its_quota_is_seen_and_its_throttling(tenth_of_a_cpu):
    source = (
        "import os, time\n"
        "from cooptim_lab.hardware.sampler import Sampler\n"
        f"open('{tenth_of_a_cpu}/cgroup.procs', 'w').write(str(os.getpid()))\n"
        "sampler = Sampler()\n"
        "began = time.monotonic()\n"
        "while time.monotonic() < began + 1: pass\n"
        "sample = sampler.take()\n"
        "print(sample.quota, sample.throttled)\n"
    )
    told = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60, check=True)
    quota, throttled = map(float, told.stdout.split())
    assert quota == 0.1 and throttled > 0.1


def test_without_a_driver_there_is_no_gpu(monkeypatch):
    import pynvml

    def absent():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", absent)
    meter = GpuMeter()
    assert meter.read() == ()
    meter.close()


class TestTrouble:
    def samples(self, count=10, stolen=0.0, throttled=0.0, **more):
        cores = (Core(0, 0.5, 2 * stolen), Core(1, 0.5, 0.0))
        return [Sample(at=0.0, seconds=0.5, cores=cores, throttled=throttled, **more)] * count

    def test_of_a_quiet_machine_nothing_is_said(self):
        assert trouble(self.samples(stolen=0.02, throttled=0.02)) == ""
        assert trouble([Sample(at=0.0, seconds=0.5)] * 10) == ""
        assert trouble([]) == ""

    def test_five_seconds_of_steal(self):
        said = "other guests of the host took 18 % of this machine: do not trust the seconds"
        assert trouble(self.samples(stolen=0.18)) == said
        assert trouble(self.samples(count=6, stolen=0.18)) == ""

    def test_five_seconds_of_throttling(self):
        assert "the quota of 0.5 CPUs was used up in 40 %" in trouble(self.samples(throttled=0.4, quota=0.5))


class TestWatch:
    def threads(self):
        return [thread for thread in threading.enumerate() if thread.name == "cooptim-sampler"]

    @pytest.fixture(autouse=True)
    def fast(self, monkeypatch):
        assert wait_until(lambda: not self.threads())
        monkeypatch.setattr("cooptim_lab.hardware.watching.PERIOD_SECONDS", 0.01)

    def test_one_thread_for_all_who_look_until_the_last_leaves(self):
        watch = Watch()
        assert watch.latest is None and not self.threads()
        watch.join()
        watch.join()
        assert wait_until(lambda: watch.latest is not None)
        assert len(self.threads()) == 1
        watch.leave()
        assert watch.is_on and len(self.threads()) == 1
        watch.leave()
        assert wait_until(lambda: not self.threads())
        assert watch.latest is None and not watch.is_on

    def test_who_comes_again_begins_anew(self):
        watch = Watch()
        for _ in range(3):
            watch.join()
            watch.leave()
        watch.join()
        assert wait_until(lambda: watch.latest is not None)
        assert wait_until(lambda: len(self.threads()) == 1)
        watch.leave()
        assert wait_until(lambda: not self.threads())
