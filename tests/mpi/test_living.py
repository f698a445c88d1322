"""A rank as a place that a program can live in: its own world, `__main__`, Python and torch as they were."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from cooptim_lab import InputError, RankFailure, RankPool, RunStopped, Task, train_sharded
from cooptim_lab.ranks.values import Words
from cooptim_lab.runs.events import Note, Output
from cooptim_lab.ways import run_cell, run_file
from tests.support import PATIENCE_SECONDS, refused, wait_until

pytestmark = pytest.mark.mpi


@pytest.fixture(scope="module")
def home():
    """A pool of this module's own, of more ranks than most cells ask for."""
    with RankPool(4) as ranks:
        ranks.start()
        yield ranks


@pytest.fixture
def cell(home):
    """`cell(source, workers=2)`: the values of the ranks."""
    return lambda source, workers=2, **how: run_cell(source, workers=workers, pool=home, **how).wait(PATIENCE_SECONDS)


@pytest.fixture
def fails(home):
    """`fails(source)`: the failure of a cell on 2 ranks."""

    def fails(source):
        run = run_cell(source, workers=2, pool=home)
        with pytest.raises(RankFailure) as caught:
            run.wait(PATIENCE_SECONDS)
        return caught.value

    return fails


def notes(run):
    return [event.text for event in run.log.since(0) if isinstance(event, Note)]


class TestFailures:
    @pytest.mark.parametrize(
        ("what", "said"),
        [
            ("comm.send(1, dest=99)", "Invalid rank"),
            ("comm.recv(source=7)", "rank"),
            ("comm.Recv(bytearray(2), source=1)", "truncat"),
            ("raise ValueError('mine')", "ValueError: mine"),
        ],
    )
    def test_an_error_beside_a_rank_that_waits_is_told(self, what, said, fails):
        failure = fails(f"if rank == 1: comm.Send(bytearray(64), dest=0)\nif rank == 0: {what}\ncomm.barrier()")
        assert failure.rank == 0
        assert said.lower() in failure.message.lower()

    def test_an_aggregation_of_the_users_that_fails_is_told(self, home):
        class Broken:
            def aggregate(self, comm, gradient):
                if comm.Get_rank() == 1:
                    raise RuntimeError("mine, on one rank")
                comm.allgather(1)

        task = Task(model=lambda: torch.nn.Linear(4, 2), data=(torch.randn(40, 4), torch.arange(40) % 2))
        with pytest.raises(RankFailure, match="mine, on one rank"):
            train_sharded(task, workers=2, aggregate=Broken, epochs=1, pool=home).wait(PATIENCE_SECONDS)


class TestWorld:
    @pytest.mark.parametrize("workers", [1, 2, 3, 4, 2, 1])
    def test_it_is_as_large_as_was_asked(self, workers, cell):
        source = (
            "from mpi4py import MPI\nw = MPI.COMM_WORLD\nw.size, w.Get_rank(), w.Get_name(), w is comm, w.allreduce(1)"
        )
        assert cell(source, workers) == [(workers, r, "MPI_COMM_WORLD", True, workers) for r in range(workers)]

    def test_one_rank_makes_communicators_right_after_many(self, cell):
        """While copies of the many's world were on their way, it waited for ever: some once in 40 times."""
        for _ in range(120):
            cell("1", workers=4)
            assert cell("MPI.COMM_SELF.Dup().Free()\ncomm.allreduce(1)", workers=1) == [1]

    def test_no_message_of_an_earlier_job_is_in_it(self, cell, fails):
        cell("if rank == 0: request = comm.isend('old', dest=1)")
        assert (
            cell("comm.isend('new', dest=1) if rank == 0 else None\nNone if rank == 0 else comm.recv(source=0)")[1]
            == "new"
        )
        fails("from mpi4py import MPI\nx = MPI.COMM_WORLD.bcast('old') if rank == 0 else 1 / 0")
        assert cell("from mpi4py import MPI\nMPI.COMM_WORLD.bcast('new' if rank == 0 else None)") == ["new", "new"]

    def test_what_a_cell_has_kept_of_its_own_is_used_by_a_later_one(self, cell):
        cell("from mpi4py import MPI\nkept = MPI.COMM_WORLD.Dup(), MPI.COMM_WORLD")
        assert cell("[each.allreduce(rank) for each in kept]") == [[1, 1]] * 2

    def test_init_and_finalize_do_nothing(self, cell):
        source = (
            "from mpi4py import MPI\nMPI.Init()\nlevel = MPI.Init_thread()\nMPI.Finalize()\ncomm.allreduce(1), level"
        )
        assert cell(source) == [(2, 3)] * 2
        assert cell("comm.allreduce(1)") == [2, 2]

    def test_many_jobs_do_not_use_it_up(self, home):
        for _ in range(300):  # MPICH has some 2000 communicators
            home.run(lambda context: context.comm.Get_size(), workers=2)
        kept = "from mpi4py import MPI\nworlds = [MPI.COMM_WORLD.Dup() for _ in range(1000)]\nlen(worlds)"
        assert run_cell(kept, workers=2, pool=home).wait(PATIENCE_SECONDS) == [1000, 1000]
        run_cell("[each.Free() for each in worlds]\ndel worlds", workers=2, pool=home).wait(PATIENCE_SECONDS)


class TestMain:
    def test_classes_functions_and_enums_travel_by_pickle(self, cell):
        cell(
            "import enum, multiprocessing, pickle\n"
            "class Colour(enum.Enum):\n    RED = 1\n"
            "class Point:\n    def __init__(self, x): self.x = x\n"
            "def double(x): return 2 * x\n"
        )
        assert cell("comm.bcast(Colour.RED if rank == 0 else None) is Colour.RED") == [True, True]
        assert cell("[type(each) is Point and each.x for each in comm.allgather(Point(rank + 1))]") == [[1, 2]] * 2
        pool = "with multiprocessing.get_context('fork').Pool(2) as pool:\n    found = pool.map(double, [1, 2])\nfound"
        assert cell(pool) == [[2, 4]] * 2
        assert cell("import __main__\n__main__.double(3), __main__.rank, __name__, double.__module__") == [
            (6, 0, "__main__", "__main__"),
            (6, 1, "__main__", "__main__"),
        ]

    def test_spawned_processes_find_what_cells_have_defined(self, cell):
        source = "import multiprocessing\nfrom mpi4py import MPI\nworld = MPI.COMM_WORLD\nWIDTH = 3\n"
        source += "def wide(x):\n    return WIDTH * x\nprint('once')"
        cell(source, 1)
        pool = "with multiprocessing.get_context('spawn').Pool(1) as pool:\n    found = pool.map(wide, [1, 2])\nfound"
        assert cell(pool, 1) == [[3, 6]]
        futures = "from mpi4py.futures import MPIPoolExecutor\nwith MPIPoolExecutor(1) as pool:\n"
        assert cell(f"{futures}    found = list(pool.map(wide, [1, 2]))\nfound", 1) == [[3, 6]]

    def test_arguments_are_a_programs(self, cell):
        assert [len(argv) for argv in cell("import sys\nsys.argv")] == [1, 1]

    def test_annotations_and_futures_are_the_cells_own(self, cell):
        assert cell("def f(x: int): ...\nf.__annotations__['x'] is int", 1) == [True]
        assert cell("from __future__ import annotations\ndef f(x: int): ...\nf.__annotations__['x']", 1) == ["int"]
        assert cell("def f(x: int): ...\nf.__annotations__['x'] is int", 1) == [True]

    def test_await(self, cell):
        assert cell(
            "import asyncio\nasync def late(x):\n    await asyncio.sleep(0.01)\n    return x\nawait late(3)", 1
        ) == [3]
        source = "task = asyncio.get_running_loop().create_task(late(4))\nawait asyncio.sleep(0)\nawait task"
        assert cell(source, 1) == [4]  # one loop for all of a cell

    @pytest.mark.parametrize("end", ["import sys\nsys.exit()", "raise SystemExit(0)", "raise SystemExit"])
    def test_an_exit_without_a_fault_is_an_end(self, end, cell):
        assert cell(end) == [None, None]

    def test_an_exit_with_one_is_a_failure(self, fails):
        assert "SystemExit: 3" in fails("import sys\nsys.exit(3)").message

    def test_a_fork_child_that_comes_to_the_cells_end_ends(self, home):
        source = "import os\nchild = os.fork()\nos.waitpid(child, 0) if child else print('child', flush=True)\nrank"
        run = run_cell(source, workers=2, pool=home)
        assert run.wait(PATIENCE_SECONDS) == [0, 1]
        assert sorted(event.text for event in run.log.since(0) if isinstance(event, Output)) == ["child\n"] * 2
        assert home.run(lambda context: context.rank, workers=2) == [0, 1]

    def test_a_value_that_cannot_travel_comes_as_its_repr(self, cell):
        values = cell("comm.Split(rank)")
        assert all(isinstance(value, Words) and "Intracomm" in repr(value) for value in values)
        assert repr(cell("import threading\nthreading.Lock()", 1)[0]).startswith("<unlocked _thread.lock")


class TestSurroundings:
    def test_a_cell_leaves_none_of_its_ways_to_the_next(self, cell):
        cell(
            "import os, signal, sys, torch\ntorch.set_grad_enabled(False)\ntorch.set_default_dtype(torch.float64)\n"
            "os.chdir('/')\nos.environ['LEFT'] = '1'\nsys.path.append('left')\nsignal.alarm(60)\ntorch.relu = None"
        )
        found = cell(
            "torch.is_grad_enabled(), str(torch.get_default_dtype()), os.getcwd(), 'LEFT' in os.environ,"
            " 'left' in sys.path, signal.alarm(0), torch.relu is None"
        )
        assert found == [(True, "torch.float32", str(Path.cwd()), False, False, 0, False)] * 2

    def test_what_the_notebook_has_set_travels(self, cell, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("FROM_THE_NOTEBOOK", "yes")
        monkeypatch.setenv("PMI_FROM_THE_NOTEBOOK", "no")
        monkeypatch.syspath_prepend(str(tmp_path / "own"))
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            found = cell(
                "import os, sys, torch\nos.getcwd(), os.environ['FROM_THE_NOTEBOOK'],"
                " 'PMI_FROM_THE_NOTEBOOK' in os.environ,"
                " sys.path[0], torch.ones(1).dtype, torch.is_deterministic_algorithms_warn_only_enabled()",
            )
        finally:
            torch.set_default_dtype(torch.float32)
            torch.use_deterministic_algorithms(False)
        assert found == [(str(tmp_path), "yes", False, str(tmp_path / "own"), torch.float64, True)] * 2
        monkeypatch.undo()
        assert cell("'FROM_THE_NOTEBOOK' in os.environ, os.getcwd()") == [(False, str(Path.cwd()))] * 2

    def test_ranks_left_inside_a_mode_are_replaced(self, home):
        run = run_cell("import torch\nmode = torch.inference_mode()\nmode.__enter__()\nNone", workers=2, pool=home)
        run.wait(PATIENCE_SECONDS)
        (said,) = notes(run)
        assert "rank 0 inside torch.inference_mode, rank 1 inside torch.inference_mode" in said
        assert "names that cells have left in them are lost" in said
        values = run_cell("import torch\ntorch.is_inference_mode_enabled()", workers=2, pool=home).wait(
            PATIENCE_SECONDS
        )
        assert values == [False, False]

    def test_a_module_that_changed_replaces_the_ranks(self, home, cell, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        module = tmp_path / "ranks_living_helper.py"
        module.write_text("value = 1\n")
        os.utime(module, (1, 1))
        assert cell("import ranks_living_helper as helper\nkept = 1\nhelper.value") == [1, 1]
        assert cell("kept") == [1, 1]
        module.write_text("value = 22\n")
        run = run_cell("import ranks_living_helper as helper\n'kept' in globals(), helper.value", workers=2, pool=home)
        assert run.wait(PATIENCE_SECONDS) == [(False, 22)] * 2
        assert any("ranks_living_helper.py changed since the ranks imported it" in note for note in notes(run))

    @pytest.mark.parametrize("where", ["folder", "PYTHONPATH"])
    def test_our_own_processes_import_nothing_of_the_users(self, where, tmp_path, monkeypatch):
        for name in ("queue", "random", "copy", "statistics", "selectors", "psutil"):
            (tmp_path / f"{name}.py").write_text("raise RuntimeError('the wrong module')\n")
        if where == "folder":
            monkeypatch.chdir(tmp_path)
        else:
            monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setenv("COOPTIM_NURSERY", "off")  # each rank by itself: the nursery is there already
        with RankPool(2) as pool:
            source = "import os\n(comm.allreduce(1), os.environ.get('PYTHONPATH'))"
            given = str(tmp_path) if where == "PYTHONPATH" else os.environ.get("PYTHONPATH")
            assert run_cell(source, workers=2, pool=pool).wait(PATIENCE_SECONDS) == [(2, given)] * 2


class TestInterrupts:
    @pytest.mark.parametrize(
        "inside",
        [
            "import torch\nwith torch.no_grad():\n    print('in', flush=True)\n    while True: pass",
            "import torch\nmode = torch.autocast('cpu')\nmode.__enter__()\nprint('in', flush=True)\nwhile True: pass",
        ],
    )
    def test_inside_a_mode(self, inside, home, cell):
        self.interrupt(home, inside)
        assert cell("torch.is_grad_enabled(), torch.is_autocast_enabled('cpu')") == [(True, False)] * 2

    def test_an_import_comes_to_its_end_first(self, home, cell, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(str(tmp_path))
        (tmp_path / "ranks_living_slow.py").write_text(
            "import time\nfirst = 1\nprint('in', flush=True)\nend = time.monotonic() + 0.5\n"
            "while time.monotonic() < end: pass\nlast = 2\n"
        )
        cell("before = 1")
        self.interrupt(home, "import ranks_living_slow\nwhile True: pass")
        assert cell("before, ranks_living_slow.first, ranks_living_slow.last") == [(1, 1, 2)] * 2

    def interrupt(self, home, source):
        run = run_cell(source, workers=2, pool=home)

        def begun():
            return sum(isinstance(event, Output) for event in run.log.since(0)) == 2

        assert wait_until(begun, PATIENCE_SECONDS)
        run.stop()
        with pytest.raises(RunStopped):
            run.wait(PATIENCE_SECONDS)


class TestFile:
    def test_a_program_runs_as_under_mpiexec(self, home, cell, tmp_path):
        program = tmp_path / "program.py"
        (tmp_path / "beside.py").write_text("value = 7\n")
        program.write_text(
            "import sys\nfrom mpi4py import MPI\nimport beside\n\ndef main():\n"
            "    print(MPI.COMM_WORLD.allreduce(1), sys.argv[1:], beside.value, __file__)\n\n"
            "if __name__ == '__main__':\n    main()\n    sys.exit(0)\n"
        )
        cell("kept = 5", 3)
        run = run_file(str(program), ["a", "--b"], workers=3, pool=home)
        run.wait(PATIENCE_SECONDS)
        printed = [event.text for event in run.log.since(0) if isinstance(event, Output)]
        assert printed == [f"3 ['a', '--b'] 7 {program}\n"] * 3
        assert cell("kept, 'main' in globals(), __name__", 3) == [(5, False, "__main__")] * 3

    def test_its_error_shows_its_lines(self, home, tmp_path):
        program = tmp_path / "wrong.py"
        program.write_text("def deep():\n    return 1 / 0\n\ndeep()\n")
        with pytest.raises(RankFailure, match="ZeroDivisionError") as caught:
            run_file(str(program), workers=2, pool=home).wait(PATIENCE_SECONDS)
        assert "return 1 / 0" in caught.value.remote_traceback
        assert "wrong.py" in caught.value.remote_traceback

    def test_what_is_no_program_is_refused(self, home, tmp_path):
        with refused("nosuch.py cannot be read"):
            run_file(str(tmp_path / "nosuch.py"), pool=home)
        (tmp_path / "no.py").write_text("x = 1\nif True print(1)\n")
        with refused("line 2 of", "is not Python"):
            run_file(str(tmp_path / "no.py"), pool=home)
        with pytest.raises(InputError):
            run_file(str(tmp_path), pool=home)
