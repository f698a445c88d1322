"""`%load_ext` and `%unload_ext`: what they put into a shell, what they leave alone, what they take away."""

from __future__ import annotations

import os
import sys

import pytest
from cooptim_magics.session import session

from cooptim_lab.ranks import shared as pools
from tests.support import ROOT, rank_processes, run_python, wait_until


class TestLoad:
    def test_adds_one_magic_and_its_completer(self, notebook):
        notebook.shell.extension_manager.unload_extension("cooptim_lab")

        def state():
            magics = notebook.shell.magics_manager.magics
            return {kind: set(magics[kind]) for kind in magics}, set(notebook.names)

        (before, names), completers = state(), list(notebook.shell.Completer.custom_matchers)
        notebook.shell.extension_manager.load_extension("cooptim_lab")
        (after, names_after), completers_after = state(), list(notebook.shell.Completer.custom_matchers)
        assert {kind: after[kind] - before[kind] for kind in after} == {"line": {"cooptim"}, "cell": {"cooptim"}}
        assert len(completers_after) == len(completers) + 1
        assert names_after == names

    def test_by_the_magic_itself(self, notebook):
        assert "already loaded" in notebook.run("%load_ext cooptim_lab").stdout
        notebook.run("%reload_ext cooptim_lab")
        assert notebook.run("%cooptim").stdout

    def test_leaves_matplotlib_alone(self, notebook):
        """In a fresh interpreter: styles and backend as they were, pyplot and torch not even imported."""
        source = """
import sys
import matplotlib
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell()
before = dict(matplotlib.rcParams)
shell.extension_manager.load_extension("cooptim_lab")
assert not {"torch", "mpi4py", "ipywidgets", "anywidget"} & sys.modules.keys(), "loading is slow"
shell.run_line_magic("cooptim", "hardware")
from cooptim_magics.picture import Picture
from cooptim_magics.plots import mime_bundle
from cooptim_lab.runs.events import Points
assert "image/png" in mime_bundle(Picture.of("t", [Points(rank=0, curve="held-out loss", x=(1, 2), y=(1, 2))]))
assert dict(matplotlib.rcParams) == before
assert not {"matplotlib.pyplot", "torch", "mpi4py.MPI"} & sys.modules.keys()
"""
        outcome = run_python(source, cwd=ROOT, env={**os.environ, "MPLBACKEND": "agg"})
        assert outcome.returncode == 0, outcome.stderr


class TestUnload:
    def test_takes_the_magic_and_the_completer(self, notebook):
        manager = notebook.shell.extension_manager
        manager.unload_extension("cooptim_lab")
        outcome = notebook.try_cell("%cooptim")
        assert "cooptim" in outcome.stdout + outcome.stderr
        assert "not found" in outcome.stdout + outcome.stderr
        magics = notebook.shell.magics_manager.magics
        assert not [kind for kind in magics if "cooptim" in magics[kind]]
        assert not [key for key in notebook.shell.strdispatchers["complete_command"].strs if "cooptim" in key]
        assert manager.unload_extension("cooptim_lab") == "not loaded"

    def test_forgets_the_task_but_not_the_users_names(self, notebook):
        data = "([[0.0, 1.0], [1.0, 0.0]] * 20, [0, 1] * 20)"
        notebook.run(f"%%cooptim task\nfrom torch import nn\nmodel, data = nn.Linear(2, 2), {data}")
        notebook.run("%unload_ext cooptim_lab\n%load_ext cooptim_lab")
        assert session(notebook.shell).task is None
        assert notebook.names["model"].in_features == 2

    def test_other_magics_are_left(self, notebook):
        notebook.shell.register_magic_function(lambda line: None, "line", "other_magic")
        notebook.shell.set_hook("complete_command", lambda shell, event: ["x"], str_key="%other_magic")
        notebook.run("%unload_ext cooptim_lab\n%other_magic")
        assert "%other_magic" in notebook.shell.strdispatchers["complete_command"].strs
        del notebook.shell.magics_manager.magics["line"]["other_magic"]
        del notebook.shell.strdispatchers["complete_command"].strs["%other_magic"]

    @pytest.mark.mpi
    def test_the_ranks_leave_and_a_reload_brings_new_ones(self, notebook, nothing_left):
        others = rank_processes()
        first = notebook.run("%%cooptim ranks --workers 1\nimport os\nos.getpid()").stdout
        assert nothing_left() == rank_processes() - others
        notebook.run("%unload_ext cooptim_lab")
        assert wait_until(lambda: not rank_processes() - others)
        notebook.run("%load_ext cooptim_lab")
        assert notebook.run("%cooptim pool").stdout.startswith("no ranks are running")
        second = notebook.run("%%cooptim ranks --workers 1\nimport os\nos.getpid()").stdout
        assert first != second
        pools.close_shared_pool()


def test_the_notebook_never_takes_part_in_mpi(notebook):
    assert "mpi4py.MPI" not in sys.modules
