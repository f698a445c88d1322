"""Drills: what must not harm a notebook, done many times at random moments.

    python -m tests.drills [--times N] [--seed S]

Every drill prints how often it was done and the slowest recovery; one that ends in the wrong message, leaves something
behind or takes longer than its reach makes the whole fail. `make drills` does all at full count;
`tests/mpi/test_drills.py` is the short form.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil

from cooptim_lab import InputError, LabError, RankFailure, RankPool, Result, RunStopped, Task, digits, train_sharded
from cooptim_lab.comm.waiting import complete
from cooptim_lab.ranks.attempt import ANSWER_SECONDS
from cooptim_lab.ranks.forking import current_nursery, shared_nursery
from cooptim_lab.ranks.job import give_values
from cooptim_lab.runs.events import Output, Progress, Resumed
from cooptim_lab.runs.run import Run
from cooptim_lab.ways import run_cell
from tests.kernel.server import Server, server
from tests.support import PATIENCE_SECONDS, rank_processes, traces, wait_until

WORKERS, REACH_SECONDS = 4, 2.0
AT_REST_SECONDS = 0.02
"""So long before a job is handed in a rank at rest is killed: the system takes half of it to end the process."""
OUTPUT_LINES = 100_000
"""Of about a kilobyte: 100 MB."""

SIZES = (100, 100_000)
"""Of a message, in numbers: MPICH copies the large out of the sender's memory, also when the sender is gone."""
TRAINING_EPOCHS, TRAINING_STEPS, SAVE_EVERY = 150, 3450, 50
"""Of the digits: 23 steps an epoch. Steps are told of every half second, and a training must not be over by then: what
would be killed is a rank at rest, which harms no training."""

ERRORS = (
    ("comm.send(1, dest=99)", "Invalid rank"),
    ("comm.recv(source=7)", "rank"),
    ("comm.Recv(bytearray(2), source=1)", "runcat"),
    ("raise ValueError('mine')", "ValueError: mine"),
)
STARTED = (
    "child = os.fork()\nif not child:\n    import time\n    time.sleep(600)\nstarted = [child]",
    "pool = multiprocessing.get_context('fork').Pool(2)\nstarted = [p.pid for p in pool._pool]",
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\nstarted = [child.pid]",
    "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\nstarted = [child.pid]",
)
SLOW_MODULE = "import time\nend = time.monotonic() + 0.3\nwhile time.monotonic() < end: pass\n"
"""It takes so long to be imported, without a sleep that an interrupt would end."""

OWNER = """
import sys, time
from cooptim_lab import RankPool
def spin(context):
    while True:
        context.comm.allreduce(1)
pool = RankPool(2)
pool.run(lambda context: None)
print("ready", flush=True)
pool.run(spin)
"""


def wide_digits() -> Task:
    """A network so wide that ranks with one memory divide it."""

    def network():
        from torch import nn

        return nn.Sequential(nn.Linear(64, 500), nn.ReLU(), nn.Linear(500, 10))

    return replace(digits(), model=network)


def collective(context, size) -> None:
    """For ever in a collective, waiting as the kit's own engines do; it raises when what it gets is wrong."""
    mine, every = np.ones(size), np.empty((context.size, size))  # the request does not keep a temporary one alive
    print("in", flush=True)
    while True:
        every[:] = 0
        complete(context.comm.Iallgather(mine, every), mine, every)
        if not every.all():
            raise ArithmeticError("not what was sent")


class Drills:
    """A pool, a source of randomness, and the drills on them. Each returns the seconds until the pool worked again."""

    def __init__(self, pool: RankPool, seed: int) -> None:
        self.pool, self.random = pool, random.Random(seed)
        self._unbroken: bytes | None = None

    def submit(self, program: Callable, **arguments) -> Run[list]:
        run: Run[list] = Run("drill", {})
        self.pool.submit(run, program, arguments, workers=WORKERS, finish=give_values, is_cooperative=False)
        assert wait_until(lambda: sum(isinstance(e, Output) for e in run.log.since(0)) >= 1, 30), "it did not begin"
        time.sleep(self.random.random() * 0.05)
        return run

    def expect(self, run: Run[list], kind: type[BaseException], *said: str) -> None:
        began = time.monotonic()
        try:
            run.wait(ANSWER_SECONDS + REACH_SECONDS)
        except kind as error:
            assert all(part in str(error) for part in said), str(error)
            assert "\n" not in str(error)
        else:
            raise AssertionError("it came to no harm")
        assert time.monotonic() - began < ANSWER_SECONDS + REACH_SECONDS

    def works_again(self) -> float:
        began = time.monotonic()
        assert self.pool.run(lambda context: context.comm.allreduce(1), workers=WORKERS) == [WORKERS] * WORKERS
        return time.monotonic() - began

    def a_rank_is_killed_in_a_collective(self) -> float:
        run, victim = self.submit(collective, size=self.random.choice(SIZES)), self.random.randrange(WORKERS)
        os.kill(self.pool.status()[victim]["pid"], signal.SIGKILL)
        self.expect(run, RankFailure, f"rank {victim}", "SIGKILL")
        return self.works_again()

    def a_rank_is_killed_at_rest(self) -> float:
        """A moment before a job that it may have no part in, which ends well all the same and asks for no retry."""
        self.works_again()
        before, asked = rank_processes(), list[LabError]()
        files, pids = traces(before), [row["pid"] for row in self.pool.status()]
        workers = self.random.choice((1, WORKERS))
        run: Run[list] = Run("drill", {})
        os.kill(self.random.choice(pids), signal.SIGKILL)
        time.sleep(self.random.random() * AT_REST_SECONDS)
        began = time.monotonic()
        self.pool.submit(
            run,
            lambda context: print("in", flush=True) or context.comm.allreduce(1),
            {},
            workers=workers,
            finish=give_values,
            rescue=lambda error: asked.append(error) or False,
        )
        assert run.wait(PATIENCE_SECONDS) == [workers] * workers
        seconds = time.monotonic() - began
        assert not asked, f"a retry was asked for: {asked}"
        said = [event.text for event in run.log.since(0) if isinstance(event, Output)]
        assert "".join(said) == "in\n" * workers, f"it was seen to begin more than once: {said}"
        assert wait_until(lambda: before.isdisjoint(rank_processes()), REACH_SECONDS), "processes are left"
        assert not [file for file in files if file.exists()], "files are left"
        return seconds

    def a_rank_raises_while_others_wait(self) -> float:
        who = self.random.randrange(WORKERS)

        def program(context, who) -> None:
            print("in", flush=True)
            if context.rank == who:
                raise ZeroDivisionError("here")
            complete(context.comm.Ibarrier())

        run = self.submit(program, who=who)
        self.expect(run, RankFailure, f"rank {who}", "ZeroDivisionError: here")
        return self.works_again()

    def an_interrupt_at_a_random_moment(self) -> float:
        pids = [row["pid"] for row in self.pool.status()]
        run = self.submit(collective, size=self.random.choice(SIZES))
        run.stop()
        self.expect(run, RunStopped)
        seconds = self.works_again()
        assert [row["pid"] for row in self.pool.status()] == pids, "the ranks did not stay"
        return seconds

    def the_guard_is_killed(self) -> float:
        run = self.submit(collective, size=self.random.choice(SIZES))
        nursery = current_nursery()  # has a guard of its own
        guards = [p for p in psutil.Process().children() if "cooptim_lab.ranks.guard" in p.cmdline()]
        guards = [p for p in guards if nursery is None or p.pid != nursery.guard]
        assert len(guards) == 1
        guards[0].send_signal(signal.SIGKILL)
        self.expect(run, LabError)
        return self.works_again()

    def the_kernel_is_killed(self) -> float:
        before = rank_processes()
        with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
            owner.stdout.readline()
            time.sleep(self.random.random() * 0.1)
            began = time.monotonic()
            owner.send_signal(signal.SIGKILL)
        assert wait_until(lambda: rank_processes() <= before, REACH_SECONDS), "processes are left"
        return time.monotonic() - began

    def the_server_is_killed(self) -> float:
        before = rank_processes()
        with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as jupyter:
            self._begin_in_notebook(jupyter, before)
            began = time.monotonic()
            jupyter.process.send_signal(signal.SIGKILL)
            assert wait_until(lambda: rank_processes() <= before, 2 * REACH_SECONDS), "processes are left"
        return time.monotonic() - began

    def the_kernel_is_restarted(self) -> float:
        before = rank_processes()
        with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as jupyter:
            self._begin_in_notebook(jupyter, before)
            ranks = rank_processes() - before
            began = time.monotonic()
            jupyter.restart_kernel()
            assert wait_until(lambda: rank_processes().isdisjoint(ranks), 2 * REACH_SECONDS), "processes are left"
            seconds = time.monotonic() - began
        assert wait_until(lambda: rank_processes() <= before, 2 * REACH_SECONDS), "processes are left"
        return seconds

    def _begin_in_notebook(self, jupyter: Server, before: set[int]) -> None:
        """A run that goes on in a notebook's kernel, for a random time."""
        jupyter.run("%cooptim sharded --workers 2 --epochs 10000000 --bg -o run")
        jupyter.run("import time\nwhile run.state != 'running': time.sleep(0.01)")
        assert len(rank_processes() - before) >= 5
        time.sleep(self.random.random() * 0.5)

    def a_rank_is_killed_in_training(self) -> float:
        """At a random step of a run in order, which goes on by itself to the same bits."""
        return self._killed_in_training("ordered")

    def a_rank_is_killed_in_one_memory(self) -> float:
        """The same where ranks share their weights: what it left half-written is nobody's; the bits are `ordered`'s."""
        return self._killed_in_training("shared")

    def _killed_in_training(self, way: str) -> float:
        options = {"workers": 2, "epochs": TRAINING_EPOCHS, "aggregate": way, "pool": self.pool}
        if self._unbroken is None:
            unbroken = train_sharded(wide_digits(), **{**options, "aggregate": "ordered"})
            self._unbroken = weights_of(unbroken.wait(PATIENCE_SECONDS))
        run = train_sharded(wide_digits(), **options, save_every=SAVE_EVERY, retries=1)
        step = self.random.randrange(1, TRAINING_STEPS // 2)
        assert wait_until(lambda: steps_done(run) >= step)
        victim = self.random.randrange(2)
        os.kill(self.pool.status()[victim]["pid"], signal.SIGKILL)
        began = time.monotonic()
        assert wait_until(lambda: any(isinstance(event, Resumed) for event in run.log.since(0)) or run.ended)
        seconds = time.monotonic() - began
        result = run.wait(PATIENCE_SECONDS)
        assert result.engine == way, f"{result.engine}: the network is too small"
        assert weights_of(result) == self._unbroken, "the weights are not those of an unbroken run"
        return seconds

    def a_flood_of_output(self) -> float:
        def program(context, lines) -> None:
            import sys

            if context.rank == 1:
                raw = sys.stdout.buffer
                for i in range(lines):
                    data = (f"bar \r{i} Σ€𝄞 " + "x" * 960 + "\n").encode()
                    raw.write(data[:13])  # in the middle of a character
                    raw.flush()
                    raw.write(data[13:])
            print("in", flush=True)

        run = self.submit(program, lines=OUTPUT_LINES)
        run.wait(300)
        text = "".join(e.text for e in run.log.since(0) if isinstance(e, Output) and e.rank == 1)
        lines = text.split("\n")[:-2]
        assert [int(line.split()[0]) for line in lines] == list(range(OUTPUT_LINES)), "lines are torn or lost"
        assert "\ufffd" not in text
        return self.works_again()

    def a_rank_closes_its_descriptors(self) -> float:
        def program(context) -> None:
            print("in", flush=True)
            if context.rank == 2:
                os.closerange(3, 256)
            context.comm.barrier()

        try:
            self.submit(program).wait(ANSWER_SECONDS + 2 * REACH_SECONDS)
        except LabError as error:
            assert "\n" not in str(error)
        return self.works_again()

    def an_error_beside_ranks_that_wait(self) -> float:
        """Told as what it is, also when MPI raised it, in time; counted is the time until it is told."""
        what, said = self.random.choice(ERRORS)
        began = time.monotonic()
        run = run_cell(f"if rank == 1: comm.Send(bytearray(64), dest=0)\nif rank == 0: {what}\ncomm.barrier()",
                       workers=WORKERS, pool=self.pool)  # fmt: skip
        self.expect(run, RankFailure, "rank 0", said)
        return max(time.monotonic() - began, self.works_again())

    def sizes_alternate(self) -> float:
        began, workers = time.monotonic(), self.random.randint(1, WORKERS)
        left = "if rank: comm.isend('left', dest=0)\n" if self.random.random() < 0.5 else ""
        source = f"{left}from mpi4py import MPI\nw = MPI.COMM_WORLD\nw.Get_size(), w.allreduce(rank), comm.Iprobe()"
        values = run_cell(source, workers=workers, pool=self.pool).wait(PATIENCE_SECONDS)
        total = workers * (workers - 1) // 2
        assert [value[:2] for value in values] == [(workers, total)] * workers
        assert left or not any(probed for *_, probed in values), "a message of an earlier cell"
        return time.monotonic() - began

    def what_a_rank_has_started_ends_with_it(self) -> float:
        source = f"import multiprocessing, os, subprocess, sys\n{self.random.choice(STARTED)}\n[p for p in started]"
        started = run_cell(source, workers=WORKERS, pool=self.pool).wait(PATIENCE_SECONDS)
        children = [pid for of in started for pid in of]
        assert all(psutil.pid_exists(pid) for pid in children)
        began = time.monotonic()
        if self.random.random() < 0.5:
            os.kill(self.pool.status()[self.random.randrange(WORKERS)]["pid"], signal.SIGKILL)
        else:
            self.pool.stop()
        assert wait_until(lambda: not any(map(psutil.pid_exists, children)), 2 * REACH_SECONDS), "a child is left"
        return max(time.monotonic() - began, self.works_again())

    def an_interrupt_inside_something(self) -> float:
        """Of a mode of torch's, or of an import: the next training finds the rank sound."""
        name = f"drilled_{self.random.randrange(10**9)}"
        module = f"import os, sys, types\nopen({name + '.py'!r}, 'w').write({SLOW_MODULE!r})\nsys.path.insert(0, '')\n"
        inside = self.random.choice(["import torch\nwith torch.no_grad():", f"{module}import {name}\nif True:"])
        source = f"{inside}\n    print('in', flush=True)\n    while True: pass"
        run = run_cell(source, workers=WORKERS, pool=self.pool)
        time.sleep(self.random.random() * 0.2)
        run.stop()
        self.expect(run, RunStopped)
        for file in Path.cwd().glob("drilled_*"):
            file.unlink()
        probe = "import torch\ntorch.is_grad_enabled(), float(torch.ones(3, requires_grad=True).sum())"
        began = time.monotonic()
        assert run_cell(probe, workers=WORKERS, pool=self.pool).wait(PATIENCE_SECONDS) == [(True, 3.0)] * WORKERS
        return time.monotonic() - began

    def no_room_for_data(self) -> float:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        try:
            self.pool.run(lambda context, x: None, x=np.ones(10**6), workers=WORKERS)
        except InputError as error:
            assert "no room for" in str(error)
        else:
            raise AssertionError("8 MB found room in 1 MB")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, previous)
        return self.works_again()


def weights_of(result: Result) -> bytes:
    return b"".join(p.detach().numpy().tobytes() for p in result.network.parameters())


def steps_done(run: Run) -> int:
    return max((event.done for event in run.log.since(0) if isinstance(event, Progress)), default=0)


def tasks_in_a_row(pool: RankPool, times: int) -> None:
    """Descriptors, threads, memory and segments stay where they were after a few."""
    here = psutil.Process()

    def counts() -> tuple[int, int, int]:
        segments = sum(path.name.startswith("mpich") for path in Path("/dev/shm").iterdir())
        return here.num_fds(), threading.active_count(), segments

    def program(context, x) -> float:
        return float(x.sum()) + context.comm.allreduce(1)

    for _ in range(10):
        pool.run(program, x=np.ones(10**5), workers=WORKERS)
    first, memory = counts(), here.memory_info().rss
    for _ in range(times):
        pool.run(program, x=np.ones(10**5), workers=WORKERS)
    # The last task's memory file is closed a moment after its run has ended.
    is_flat = wait_until(lambda: all(now <= then for now, then in zip(counts(), first, strict=True)), 2)
    assert is_flat, f"{first} became {counts()}"
    assert here.memory_info().rss - memory < 20 << 20, "memory grew"


DRILLS: dict[str, float] = {  # how often, as a part of --times
    "a_rank_is_killed_in_a_collective": 1,
    "a_rank_is_killed_at_rest": 1,
    "a_rank_raises_while_others_wait": 1,
    "an_interrupt_at_a_random_moment": 1,
    "the_kernel_is_killed": 0.4,
    "the_guard_is_killed": 0.4,
    "a_rank_is_killed_in_training": 0.4,
    "a_rank_is_killed_in_one_memory": 0.4,
    "the_server_is_killed": 0.1,
    "the_kernel_is_restarted": 0.1,
    "an_error_beside_ranks_that_wait": 1,
    "sizes_alternate": 4,
    "what_a_rank_has_started_ends_with_it": 0.4,
    "an_interrupt_inside_something": 1.2,
    "a_flood_of_output": 0,
    "a_rank_closes_its_descriptors": 0,
    "no_room_for_data": 0,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drills", description="Do harm, and see that none is done.")
    parser.add_argument("--times", type=int, default=50, help="how often each (default 50)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="drills-") as home:
        os.environ["COOPTIM_HOME"] = home  # it marks the processes that are ours
        return drill(options.times, options.seed)


def drill(times: int, seed: int) -> int:
    """Every drill, `times` its share; 1 when one falls short."""
    nursery = shared_nursery()
    assert nursery is None or nursery.wait_until_ready()
    with RankPool(WORKERS) as pool:
        drills = Drills(pool, seed)
        drills.works_again()
        for name, share in DRILLS.items():
            count = max(1, round(times * share))
            seconds = [getattr(drills, name)() for _ in range(count)]
            print(f"{name.replace('_', ' ')} ×{count}: slowest recovery {max(seconds):.2f} s", flush=True)
            if max(seconds) > REACH_SECONDS:
                print(f"FALLS SHORT: more than {REACH_SECONDS:g} s")
                return 1
        tasks_in_a_row(pool, 4 * times)
        print(f"{4 * times} tasks in a row: descriptors, threads, memory and segments flat")
    assert wait_until(lambda: not rank_processes(), 3), "processes are left"
    return 0


if __name__ == "__main__":
    sys.exit(main())
