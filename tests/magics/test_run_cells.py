"""Cells that start something: what they show, bind and leave, and how they fail."""

from __future__ import annotations

import re

import pytest
from IPython.core.error import UsageError

from cooptim_lab import RankFailure, Run
from cooptim_lab.ranks import launch
from cooptim_lab.ranks import shared as pools
from cooptim_lab.runs import store
from tests.support import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.mpi
ENDLESS = 1_000_000  # epochs: ends only by being stopped
OWN = """import numpy as np
def model():
    from torch import nn
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
data = (np.random.default_rng(0).normal(size=(90, 4)), np.arange(90) % 3)
"""
STOPPED = re.compile(r"run (\w+): (stopped|is about to stop .*)\n")  # the latter on a busy machine
NAN_LOSS = "loss = lambda outputs, targets: outputs.sum() * float('nan')"


@pytest.fixture(autouse=True)
def own_record(ranks, tmp_path, monkeypatch):
    """Each test has a record of runs of its own; the ranks run already where they were."""
    ranks.start()
    monkeypatch.setenv(store.PLACE, str(tmp_path))


@pytest.fixture
def endless(notebook):
    """A run that goes on in the background; stopped after the test."""
    notebook.run(f"%cooptim subnets -n 2 --epochs {ENDLESS} --bg -o going")
    run = notebook.names["going"]
    yield run
    run.stop()
    assert run.join(PATIENCE_SECONDS)


class TestTrain:
    @pytest.mark.parametrize("command", ["subnets -n 2 --workers 2", "sharded --workers 2 --aggregate allreduce"])
    def test_the_built_in_task(self, notebook, command):
        outcome = notebook.run(f"%cooptim {command} --epochs 2 -o run")
        run = notebook.names["run"]
        assert isinstance(run, Run)
        assert (run.state, run.result.way) == ("done", command.split()[0])
        assert re.fullmatch(rf"run {run.id}: .* of training · held-out accuracy .* parameters.*\n", outcome.stdout)
        assert store.load(run.id).state == "done"

    def test_a_live_chart_is_replaced_by_a_figure(self, notebook):
        opened, *_, last = notebook.run("%cooptim sharded --workers 1 --epochs 2").displayed
        assert "application/vnd.jupyter.widget-view+json" in opened["data"]
        assert not opened["update"]
        assert last["update"]
        assert last["transient"]["display_id"] == opened["transient"]["display_id"]
        assert "image/png" in last["data"]
        assert last["data"]["text/plain"].startswith("sharded: digits: ")

    def test_the_task_of_an_earlier_cell(self, notebook):
        notebook.run(f"%%cooptim task\n{OWN}")
        notebook.run("%cooptim subnets -n 2 --epochs 1 -o run")
        run = notebook.names["run"]
        assert run.result.task == "your task"
        assert run.result.network(__import__("torch").zeros(1, 4)).shape == (1, 3)
        rows = notebook.run("%cooptim compare -n 2 --workers 1 --epochs 1").tables[-1]
        assert rows.count("\n") >= 4

    def test_a_body_is_for_this_run_only(self, notebook):
        notebook.run(f"%%cooptim sharded --workers 1 --epochs 1 -o run\n{OWN}")
        assert notebook.names["run"].result.task == "your task"
        assert notebook.run("%cooptim task").stdout.startswith("digits")

    def test_what_the_body_closes_over_travels(self, notebook):
        """The model is a class of the notebook that uses the notebook's own function."""
        notebook.run("import torch\nfrom torch import nn\nwidth = 8\ndef act(x):\n    return x.relu()")
        notebook.run(
            "%%cooptim sharded --workers 1 --epochs 1 -o run\n"
            "import numpy as np\n"
            "class model(nn.Module):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            "        self.first, self.last = nn.Linear(4, width), nn.Linear(width, 3)\n"
            "    def forward(self, x):\n"
            "        return self.last(act(self.first(x)))\n"
            "data = np.ones((90, 4), 'float32'), np.arange(90) % 3"
        )
        assert notebook.names["run"].result.parameters == 4 * 8 + 8 + 8 * 3 + 3

    @pytest.mark.parametrize(
        ("cell", "parts"),
        [
            ("%cooptim subnets -n 65 --epochs 1", ["65", "64"]),
            ("%cooptim subnets -n 1 --workers 2 --epochs 1", ["workers", "2", "1"]),
            (f"%%cooptim sharded --workers 1 --epochs 1\n{OWN}data = data[0], np.arange(90) % 5", ["5", "3"]),
            (f"%%cooptim sharded --workers 1 --epochs 1\n{OWN}data = data[0][:, :2], data[1]", ["4", "2"]),
            (f"%%cooptim sharded --workers 1 --epochs 1\n{OWN}data = data[0] * np.nan, data[1]", ["not finite"]),
            (
                f"%%cooptim sharded --workers 1 --epochs 1\n{OWN}{NAN_LOSS}",
                ["no longer finite", "learning rate"],
            ),
        ],
    )
    def test_what_only_the_ranks_can_tell(self, notebook, cell, parts):
        message = notebook.refuse(cell)
        assert [part for part in parts if part not in message] == [], message
        assert {row["state"] for row in pools.shared_pool().status()} == {"idle"}

    def test_an_error_of_the_users_own_is_shown_as_the_ranks_traceback(self, notebook):
        loss = """
count = 0
def loss(outputs, targets):
    global count
    count += 1
    if count > 9:
        raise LookupError('no such loss')
    return outputs.mean()
"""
        body = OWN + loss
        outcome = notebook.try_cell(f"%%cooptim sharded --workers 1 --epochs 99\n{body}")
        assert isinstance(outcome.error, RankFailure)
        shown = outcome.stdout + outcome.stderr
        assert "no such loss" in shown
        assert re.search(r"line \d+, in loss", shown)
        assert re.search(r"RankFailure: rank \d on \S+: LookupError: no such loss", shown)
        assert "watch(view)" not in shown, "the kernel's own stack is nothing to the reader"

    def test_without_mpiexec(self, notebook, monkeypatch):
        with pools.RankPool(1) as fresh, monkeypatch.context() as patch:
            patch.setattr(launch, "find_mpiexec", lambda: None)
            patch.setattr(pools, "_shared", fresh)
            message = notebook.refuse("%cooptim sharded --workers 1 --epochs 1 --workers 1")
            assert message == "mpiexec not found: pip install mpich, or load your cluster's MPI module"


class TestBackground:
    def test_the_cell_ends_at_once_and_the_run_goes_on(self, notebook):
        outcome = notebook.run(f"%cooptim sharded --workers 1 --epochs {ENDLESS} --bg -o run")
        run = notebook.names["run"]
        assert not run.ended
        run.stop()
        assert run.join(PATIENCE_SECONDS)
        assert outcome.stdout.startswith(f"run {run.id} goes on in the background: %cooptim stop {run.id} ends it")
        assert run.state == "stopped"  # with a result or, where it had not begun, without

    def test_the_figure_comes_when_it_ends(self, notebook):
        opened, place = notebook.run("%cooptim sharded --workers 2 --epochs 2 --bg -o run").displayed
        assert notebook.names["run"].wait(PATIENCE_SECONDS).state == "done"

        def updates(of: dict) -> list[dict]:
            return [each for each in notebook.kept if each["update"] and each["transient"] == of["transient"]]

        assert wait_until(lambda: updates(opened) and updates(place))
        assert "image/png" in updates(opened)[-1]["data"]
        assert (
            "computing" in updates(place)[-1]["data"]["text/plain"]
        )  # where the time went, as a cell that waits has it

    def test_stop_keeps_what_was_trained(self, notebook, endless):
        assert wait_until(lambda: endless.state == "running" and len(endless.log.since(0)) > 5)
        assert STOPPED.fullmatch(notebook.run("%cooptim stop").stdout)[1] == endless.id
        assert endless.join(PATIENCE_SECONDS)
        assert endless.result.state == "stopped"
        assert endless.result.network is not None
        assert "ended already: stopped" in notebook.refuse(f"%cooptim stop {endless.id}")

    def test_stop_by_id(self, notebook, endless):
        assert STOPPED.fullmatch(notebook.run(f"%cooptim stop {endless.id}").stdout)[1] == endless.id
        assert endless.join(PATIENCE_SECONDS)
        assert endless.state == "stopped"

    def test_a_second_run_waits_for_the_first(self, notebook, endless):
        notebook.run("%cooptim sharded --workers 1 --epochs 1 --bg -o second")
        second = notebook.names["second"]
        assert wait_until(lambda: endless.state == "running")
        assert second.state == "waiting"
        notebook.run(f"%cooptim stop {endless.id}")
        assert second.wait(PATIENCE_SECONDS).state == "done"


class TestStudies:
    def test_compare_ends_in_one_table(self, notebook):
        outcome = notebook.run("%cooptim compare --epochs 2 -n 2 -o run")
        (table,) = outcome.tables
        head, _, *rows = table.splitlines()
        assert "P = T_c/T_p" in head
        assert [row.split("  ")[0] for row in rows[:3]] == ["as it is", "2 sub-networks", "2 shards, server"]
        assert [row.way for row in notebook.names["run"].result] == ["baseline", "subnets", "sharded"]
        assert "P below 1 is better" in table

    def test_speedup(self, notebook):
        outcome = notebook.run("%cooptim speedup sharded --workers 1,2 --repeats 2 --epochs 1")
        (table,) = outcome.tables
        assert "sharded, 2 workers" in table
        assert "probability 0.50" in table
        assert "image/png" in [each for each in outcome.displayed if each["update"]][-1]["data"]

    def test_costs(self, notebook):
        outcome = notebook.run("%cooptim costs --workers 2 --repeats 1 --sync-every 2 -o run")
        (table,) = outcome.tables
        assert [row.split()[0] for row in table.splitlines()[2:6]] == ["server", "allreduce", "shared", "local"]
        assert re.search(r"inside a host: α = .* µs, β = .* MB/s", table)
        assert "a ring of 2 beats the server" in table
        assert "image/png" in [each for each in outcome.displayed if each["update"]][-1]["data"]
        assert notebook.run("%cooptim show").tables == outcome.tables
        assert len(notebook.names["run"].result) == 4


class TestCeilings:
    @pytest.fixture
    def measured(self, notebook, ranks, tmp_path, monkeypatch):
        monkeypatch.setenv("COOPTIM_HOME", str(tmp_path))
        return notebook.run("%cooptim hardware --measure --seconds 0.1 -o run")

    def test_the_roofline_and_two_tables(self, notebook, measured):
        figures, layers = measured.tables
        assert "products n × n, float32" in figures
        assert "message, latency" in figures
        assert [line.split()[0] for line in layers.splitlines()[2:7]] == list("01234")
        assert "8,970 parameters in 6 tensors" in layers
        assert "image/png" in [each for each in measured.displayed if each["update"]][-1]["data"]
        assert notebook.names["run"].result.peak() > 0

    def test_it_is_drawn_again(self, notebook, measured):
        assert notebook.run("%cooptim show").tables == measured.tables
        assert "float32" in notebook.run("%cooptim runs").tables[0]

    def test_what_is_known_is_not_measured_again_but_by_request(self, notebook, measured):
        first = notebook.names["run"].result
        again = notebook.run("%cooptim hardware --measure -o run")
        assert notebook.names["run"].result == first
        assert "this machine is the same; `again` measures anew" in again.tables[0]

    def test_layers_are_the_current_tasks(self, notebook, measured):
        notebook.run(
            "%%cooptim task\nimport torch\nfrom torch import nn\n"
            "model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 2))\n"
            "data = (torch.randn(64, 1, 8, 8), torch.arange(64) % 2)\nname = 'pictures'"
        )
        _, layers = notebook.run("%cooptim hardware --measure --batch 32").tables
        assert [line.split()[1] for line in layers.splitlines()[2:5]] == ["Conv2d", "Flatten", "Linear"]
        assert "a step of 32 rows" in layers


class TestRanks:
    def test_output_carries_its_rank(self, notebook):
        outcome = notebook.run("%%cooptim ranks\nprint('first', rank, size)\nprint('second')")
        assert sorted(outcome.stdout.splitlines()) == [
            "[0] first 0 2",
            "[0] second",
            "[1] first 1 2",
            "[1] second",
        ]

    def test_standard_error_stays_apart(self, notebook):
        outcome = notebook.run("%%cooptim ranks --workers 1\nimport sys\nprint('odd', file=sys.stderr)")
        assert (outcome.stdout, outcome.stderr) == ("", "[0] odd\n")

    def test_the_last_expression_is_shown_by_rank(self, notebook):
        outcome = notebook.run("%%cooptim ranks -o run\nx = rank * 10\nx + 1")
        assert outcome.stdout == "[0] 1\n[1] 11\n"
        assert notebook.names["run"].result == [1, 11]
        assert "x" not in notebook.names, "names live on the ranks"

    def test_names_persist(self, notebook):
        notebook.run("%%cooptim ranks\nkept = [rank]\ndef double(v): return 2 * v")
        assert notebook.run("%%cooptim ranks\nkept.append(double(rank))\nkept").stdout == "[0] [0, 0]\n[1] [1, 2]\n"

    def test_they_speak_to_each_other(self, notebook):
        assert notebook.run("%%cooptim ranks\ncomm.allreduce(rank + 1)").stdout == "[0] 3\n[1] 3\n"

    def test_no_chart(self, notebook):
        assert notebook.run("%%cooptim ranks\n1").displayed == []

    def test_a_failing_rank_is_named(self, notebook):
        outcome = notebook.try_cell("%%cooptim ranks\nprint('before')\nif rank == 1:\n    1 / 0\ncomm.Barrier()")
        assert isinstance(outcome.error, RankFailure)
        assert outcome.error.rank == 1
        shown = outcome.stdout + outcome.stderr
        assert "[1] before" in shown
        assert "    1 / 0" in shown
        assert re.search(r"RankFailure: rank 1 on \S+: ZeroDivisionError: division by zero", shown)

    def test_the_ranks_survive_a_failure(self, notebook):
        before = notebook.run("%%cooptim ranks\nimport os\nos.getpid()").stdout
        notebook.try_cell("%%cooptim ranks\n1 / 0")
        assert notebook.run("%%cooptim ranks\nos.getpid()").stdout == before

    def test_a_message_of_many_lines_is_one_line_at_the_end(self, notebook):
        outcome = notebook.try_cell("%%cooptim ranks --workers 1\nraise ValueError('first\\nsecond')")
        assert isinstance(outcome.error, RankFailure)
        assert "\n" not in str(outcome.error)


class TestRecord:
    def test_none_yet(self, notebook):
        assert notebook.run("%cooptim runs").stdout.startswith("no run on record yet: %cooptim compare")
        assert "no run on record yet" in notebook.refuse("%cooptim show")

    def test_runs_lists_the_newest_first(self, notebook):
        notebook.run("%cooptim sharded --workers 1 --epochs 1 -o first")
        notebook.run("%%cooptim ranks -o second\n1")
        (table,) = notebook.run("%cooptim runs").tables
        rows = [row.split()[0] for row in table.splitlines()[2:]]
        assert rows == [notebook.names["second"].id, notebook.names["first"].id]

    def test_show_draws_it_again(self, notebook):
        first = notebook.run("%cooptim sharded --workers 1 --epochs 2 -o run").displayed[-1]["data"]
        again = notebook.run(f"%cooptim show {notebook.names['run'].id}").displayed
        assert again[0]["data"]["text/plain"] == first["text/plain"]
        assert "image/png" in again[0]["data"]

    def test_show_of_a_study_has_its_table(self, notebook):
        (table,) = notebook.run("%cooptim compare --workers 1 --epochs 1 -n 2").tables
        assert notebook.run("%cooptim show").tables == [table]

    def test_show_prints_what_the_ranks_printed(self, notebook):
        notebook.run("%%cooptim ranks\nprint('hello from', rank)")
        assert sorted(notebook.run("%cooptim show").stdout.splitlines()) == ["[0] hello from 0", "[1] hello from 1"]

    def test_a_run_that_goes_on(self, notebook, endless):
        assert wait_until(lambda: endless.state == "running")
        (table,) = notebook.run("%cooptim runs").tables
        assert re.search(rf"{endless.id} .* running", table)


class TestPool:
    def test_status(self, notebook):
        (table,) = notebook.run("%cooptim pool").tables
        pids = [str(row["pid"]) for row in pools.shared_pool().status()]
        head, _, *rows = table.splitlines()
        assert head.split() == ["rank", "host", "pid", "state", "memory", "(PSS)", "threads", "up"]
        assert [row.split()[2] for row in rows[:2]] == pids
        assert "idle" in rows[0]
        assert "MPI" in rows[-1]

    def test_start_and_stop(self, notebook, monkeypatch, nothing_left):
        with pools.RankPool(1) as own, monkeypatch.context() as patch:
            patch.setattr(pools, "_shared", own)
            (table,) = notebook.run("%cooptim pool start --workers 1").tables
            nothing_left()
            assert len(table.splitlines()) == 4
            assert notebook.run("%cooptim pool stop").stdout.startswith("no ranks are running")
            assert own.status() == []


def test_usage_error_is_the_class_itself(notebook):
    """A subclass of it would be shown with its whole traceback."""
    outcome = notebook.try_cell("%cooptim subnets -n 65 --epochs 1")
    assert type(outcome.error) is UsageError
