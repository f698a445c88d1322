"""A notebook without a kernel: IPython's own shell in this process, with the extension loaded."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import pytest
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import UsageError
from IPython.core.interactiveshell import ExecutionResult, InteractiveShell
from traitlets.config import Config

from cooptim_lab.ranks import shared as pools


@dataclass
class Outcome:
    """What a cell has done."""

    result: ExecutionResult
    stdout: str
    stderr: str
    displayed: list[dict[str, Any]]

    @property
    def error(self) -> BaseException | None:
        return self.result.error_before_exec or self.result.error_in_exec

    @property
    def tables(self) -> list[str]:
        """The texts of the tables that it showed."""
        return [each["data"]["text/plain"] for each in self.displayed if "<table" in each["data"].get("text/html", "")]


class Recorder(DisplayPublisher):
    """Keeps what is displayed, from whatever thread."""

    def publish(self, data, metadata=None, *, transient=None, update=False, **other):
        self.kept.append({"data": data, "transient": transient or {}, "update": update})


@dataclass
class Notebook:
    """Runs cells and keeps what they show."""

    shell: InteractiveShell
    kept: list[dict[str, Any]] = field(default_factory=list)

    @property
    def names(self) -> dict[str, Any]:
        return self.shell.user_ns

    def try_cell(self, source: str) -> Outcome:
        """Run a cell, whatever becomes of it."""
        out, err, before = io.StringIO(), io.StringIO(), len(self.kept)
        with redirect_stdout(out), redirect_stderr(err):
            result = self.shell.run_cell(source)
        return Outcome(result, out.getvalue(), err.getvalue(), self.kept[before:])

    def run(self, source: str) -> Outcome:
        """Run a cell that must succeed."""
        outcome = self.try_cell(source)
        assert outcome.result.success, f"{source}\n{outcome.error!r}\n{outcome.stdout}{outcome.stderr}"
        return outcome

    def refuse(self, source: str) -> str:
        """Run a cell that must fail as a mistake of the user's: a UsageError itself, in one line. Returns the line."""
        outcome = self.try_cell(source)
        assert type(outcome.error) is UsageError, f"{source}\n{outcome.error!r}\n{outcome.stdout}"
        message = str(outcome.error)
        assert "\n" not in message, message
        assert outcome.stderr == f"UsageError: {message}\n"
        assert "Traceback" not in outcome.stdout
        return message


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InteractiveShell]:
    """One per process, as IPython has it; it writes no history and reads no profile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        config = Config()
        config.HistoryManager.enabled = False
        config.InteractiveShell.colors = "nocolor"
        yield InteractiveShell.instance(config=config)
        InteractiveShell.clear_instance()


@pytest.fixture(autouse=True)
def undisturbed(calm: None) -> None:
    """What a notebook shows is not to hang on what else this machine does."""


@pytest.fixture
def notebook(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    """With `%load_ext cooptim_lab` done; unloaded again after the test, the notebook's names gone."""
    names = dict(shell.user_ns)
    book = Notebook(shell)
    recorder = Recorder(parent=shell)
    recorder.kept = book.kept
    monkeypatch.setattr(shell, "display_pub", recorder)
    # The nursery that torch was imported into, and the ranks of the session's pool with it, stay for the next test.
    monkeypatch.setattr("cooptim_magics.close_shared_nursery", lambda: None)
    shell.extension_manager.load_extension("cooptim_lab")
    yield book
    shell.extension_manager.unload_extension("cooptim_lab")
    shell.user_ns.clear()
    shell.user_ns.update(names)


@pytest.fixture
def ranks(notebook: Notebook, pool: pools.RankPool) -> Iterator[pools.RankPool]:
    """The notebook uses the ranks that stand ready for all tests, and leaves them to the next test."""
    with pytest.MonkeyPatch.context() as patch:  # undone before the extension is unloaded, which ends its ranks
        patch.setattr(pools, "_shared", pool)
        yield pool
