"""What others take of the CPUs, from readings of machines that are built of files; and the threads' own waiting."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cooptim_lab.hardware.cgroups import Throttling, throttling
from cooptim_lab.hardware.load import Disturbance, Reading, between, read
from cooptim_lab.hardware.ready import Watch, longest, waits

TICK = os.sysconf("SC_CLK_TCK")


@pytest.fixture(autouse=True)
def two_of_four_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The affinity is a system call, not a file."""
    monkeypatch.setattr("cooptim_lab.hardware.load.affinity", lambda: {1, 2})


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


def cpu(number: int, *, user=0, nice=0, system=0, idle=0, wait=0, irq=0, soft=0, stolen=0, guest=0) -> str:
    """A line of /proc/stat, in seconds."""
    seconds = (user, nice, system, idle, wait, irq, soft, stolen, guest, 0)
    return f"cpu{number} " + " ".join(str(round(each * TICK)) for each in seconds)


def process(pid: int, parent: int, own=(0, 0), children=(0, 0), name="python") -> dict[str, str]:
    """Its /proc/PID/stat, in seconds."""
    ticks = " ".join(str(round(each * TICK)) for each in (*own, *children))
    return {f"proc/{pid}/stat": f"{pid} ({name}) S {parent} 1 1 0 -1 4194560 1 2 3 4 {ticks} 20 0 5 0 99 1 1"}


class TestReading:
    def test_busy_is_all_but_idle_waiting_and_stolen_of_the_cpus_that_are_allowed(self, tmp_path):
        lines = [
            "cpu 9999 9999 9999 9999 9999 9999 9999 9999 0 0",
            cpu(0, user=100),
            cpu(1, user=1, nice=2, system=4, idle=50, wait=60, irq=8, soft=16, stolen=0.5, guest=1),
            cpu(2, user=32, stolen=0.25),
            cpu(10, user=100),
        ]
        reading = read(root=write(tmp_path, **{"proc/stat": "\n".join(lines)}))
        assert (reading.busy, reading.stolen, reading.cpus) == (63, 0.75, 2)

    @pytest.mark.parametrize("text", ["", "cpu 1 2 3", "cpu1 1 2", "cpu1 a b c d e f g h", "cpu1 1 1 1 1 1 1 1 1"])
    def test_unknown_is_none(self, tmp_path, text):
        reading = read(root=write(tmp_path, **{"proc/stat": text}))
        assert (reading.busy, reading.stolen) == (None, None)

    def test_one_s_own_alone_and_with_all_its_children(self, tmp_path):
        files = {
            **process(10, 1, own=(1, 2), children=(100, 100), name="a kernel) S 1"),
            **process(20, 10, own=(4, 0), children=(8, 0)),
            **process(21, 20, own=(0, 16)),
            **process(22, 21, own=(32, 0), children=(0, 64)),
            **process(30, 10, own=(500, 0)),
        }
        reading = read([10, 99], [20, 98], root=write(tmp_path, **files))
        assert reading.own == {10: 3, 20: 124}

    def test_garbage_is_no_process(self, tmp_path):
        root = write(tmp_path, **{"proc/10/stat": "10 (x) S 1 2", "proc/20/stat": "", **process(30, 10, own=(1, 0))})
        assert read([10], [20, 30], root=root).own == {30: 1}

    def test_the_quota_is_the_room(self, tmp_path):
        root = write(tmp_path, **{"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"})
        assert read(root=root).room == 0.5
        assert read(root=tmp_path / "empty").room == 2

    def test_this_machine_can_be_read(self, monkeypatch):
        monkeypatch.undo()
        first, second = read([os.getpid()]), read([os.getpid()], [os.getpid()])
        assert second.own.keys() == {os.getpid()}
        assert second.at >= first.at


class TestThrottling:
    V2 = "usage_usec 5\nnr_periods 63\nnr_throttled 62\nthrottled_usec 2500000"
    V1 = "nr_periods 144\nnr_throttled 113\nthrottled_time 7000000000\nnr_bursts 0"

    def test_version_2(self, tmp_path):
        root = write(tmp_path, **{"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.stat": self.V2})
        assert throttling(root) == Throttling(63, 62, 2.5)

    def test_version_1(self, tmp_path):
        root = write(tmp_path, **{"proc/self/cgroup": "3:cpu,cpuacct:/a", "sys/fs/cgroup/cpu/a/cpu.stat": self.V1})
        assert throttling(root) == Throttling(144, 113, 7.0)

    def test_the_group_that_stood_still_longest(self, tmp_path):
        above = self.V2.replace("2500000", "3500000")
        files = {"proc/self/cgroup": "0::/a", "sys/fs/cgroup/a/cpu.stat": self.V2, "sys/fs/cgroup/cpu.stat": above}
        found = throttling(write(tmp_path, **files))
        assert found is not None
        assert found.seconds == 3.5

    @pytest.mark.parametrize("text", ["usage_usec 5", "nr_periods 1\nnr_throttled 0", "nr_periods x"])
    def test_unknown_is_none(self, tmp_path, text):
        assert throttling(write(tmp_path, **{"sys/fs/cgroup/cpu.stat": text})) is None


BEFORE = Reading(at=100, cpus=2, room=2, busy=50, stolen=1, own={1: 10, 2: 20}, throttled=Throttling(10, 2, 1.0))


def after(**changed) -> Disturbance:
    return between(BEFORE, replace(BEFORE, at=104, **changed))


class TestDifference:
    def test_others_are_what_is_left(self):
        seen = after(busy=57, own={1: 11, 2: 22})  # 7 seconds of CPU, 3 of them ours, of 8
        assert (seen.seconds, seen.others, seen.stolen) == (4, 0.5, 0)

    def test_one_s_own_work_is_no_disturbance(self):
        assert after(busy=58, own={1: 14, 2: 24}).others == 0

    def test_one_that_has_begun_counts_whole_and_one_that_has_ended_not_at_all(self):
        assert after(busy=58, own={1: 12, 3: 6}).others == 0

    def test_ticks_never_make_it_negative(self):
        assert after(busy=51, own={1: 12, 2: 20}).others == 0

    def test_under_a_quota_others_may_have_what_is_over(self):
        assert after(room=0.5, busy=56).others == 0
        assert after(room=0.5, busy=57).others == 0.5
        assert after(room=0.5, busy=58).others == 1

    def test_steal_and_throttling(self):
        seen = after(stolen=3, throttled=Throttling(50, 32, 2.5))
        assert (seen.stolen, seen.throttled, seen.throttled_seconds) == (0.25, 0.75, 1.5)
        assert after().throttled == 0

    @pytest.mark.parametrize("name", ["busy", "stolen", "throttled"])
    def test_unknown_is_none(self, name):
        seen, found = after(**{name: None}), {"busy": "others"}.get(name, name)
        assert getattr(seen, found) is None
        assert between(replace(BEFORE, **{name: None}), replace(BEFORE, at=104)) == replace(seen)

    def test_too_short_to_be_known(self):
        assert between(BEFORE, replace(BEFORE, at=100.05, busy=50.1)).others is None

    def test_without_cpus(self):
        assert after(cpus=None, room=None).others is None


def task(root: Path, **threads: str) -> Path:
    return write(root, **{f"proc/self/task/{name[1:]}/schedstat": text for name, text in threads.items()})


class TestReady:
    def test_nanoseconds_in_the_queue(self, tmp_path):
        assert waits(task(tmp_path, t7="5000000000 1500000000 3", t8="1 0 1")) == {7: 1.5, 8: 0}

    @pytest.mark.parametrize("text", ["0 0 0", "", "1 2", "a b c"])
    def test_unknown_is_none(self, tmp_path, text):
        assert waits(task(tmp_path, t7=text)) is None
        assert longest(None, {1: 1.0}) is longest({1: 1.0}, None) is None

    def test_the_thread_that_waited_longest(self):
        assert longest({1: 5.0, 2: 1.0}, {1: 5.5, 2: 3.0, 3: 0.5}) == 2.0

    def test_a_watch(self, tmp_path):
        watch = Watch(task(tmp_path, t7="5000000000 1500000000 3"))
        task(tmp_path, t7="6000000000 1750000000 4")
        told = watch.told()
        assert told["waiting"] == 0.25
        assert told["elapsed"] > 0
        assert told["cpu"] >= 0
        assert Watch(tmp_path / "empty").told()["waiting"] is None

    def test_the_quota_is_told_with_it(self, tmp_path):
        root = task(tmp_path, t7="5000000000 1500000000 3")
        assert Watch(root).told()["quota"] is None
        write(root, **{"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"})
        assert Watch(root).told()["quota"] == 0.5
