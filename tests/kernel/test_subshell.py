"""Stop works while a cell blocks: a control's messages are served on the subshell that the page sent them to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.mpi

OPEN = """
from cooptim_magics.session import session
from cooptim_magics.panel import LabPanel
panel = LabPanel(session(get_ipython()))
panel.open()
panel.controls.epochs.max = panel.controls.epochs.value = 10_000_000
panel.controls.workers.value = 1
print(panel.controls.run.comm.comm_id, panel.controls.stop.comm.comm_id, panel.message.comm.comm_id)
"""
BLOCK = """
import pathlib, time
print("blocked")
while not pathlib.Path({path!r}).exists():
    time.sleep(0.01)
"""
AS_IPYKERNEL_HAS_IT = """
for control in panel.controls.everything:
    del control.comm._reply_subshell_for  # what the panel has put there
"""


@dataclass
class Panel:
    """The panel of a notebook as the page knows it."""

    run: str
    stop: str
    message: str
    subshell: str


@pytest.fixture
def panel(kernel) -> Panel:
    panel = Panel(*kernel.run(OPEN).text.split(), subshell=kernel.create_subshell())
    yield panel
    kernel.run("if panel._run is not None:\n    panel._run.stop(); panel._run.join(60)")


@pytest.fixture
def blocked(kernel, tmp_path):
    """Starts a cell that blocks the notebook's main shell: returns its id and the file that lets it go."""

    def block() -> tuple[str, Path]:
        release = tmp_path / "go on"
        cell = kernel.begin(BLOCK.format(path=str(release)))
        assert kernel.wait_until(lambda: kernel.printed_by(cell) == "blocked\n")
        return cell, release

    yield block
    (tmp_path / "go on").touch()


def test_run_and_stop_while_a_cell_blocks(kernel, panel, blocked):
    cell, release = blocked()
    kernel.click(panel.run, panel.subshell)
    assert kernel.evaluate("panel._run is not None", panel.subshell) == "True"
    kernel.click(panel.stop, panel.subshell)
    assert kernel.evaluate("panel._run.stop_level", panel.subshell) == "1"
    assert kernel.evaluate("panel._run.join(60), panel._run.state", panel.subshell) == "(True, 'stopped')"

    def said() -> list[str]:
        return [state["value"] for state in kernel.widget_states(panel.message) if "value" in state]

    # How it ended, or on a busy machine the doubt that this makes.
    assert kernel.wait_until(lambda: said()[-1:] and said()[-1] not in ("", "stopping")), said()
    assert not kernel.has_ended(cell), "the cell was to block all the while"
    release.touch()
    assert kernel.finish(cell).reply["status"] == "ok"


def test_without_our_routing_it_would_not(kernel, panel, blocked):
    """ipykernel 7.4 by itself: the click waits for the cell, and this file's first test can fail."""
    kernel.run("routes = hasattr(type(panel.controls.stop.comm), '_reply_subshell_for')")
    if kernel.evaluate("routes", panel.subshell) == "False":
        pytest.skip("this ipykernel does not route a control's messages")
    kernel.run(AS_IPYKERNEL_HAS_IT + "panel.start()")
    cell, release = blocked()
    kernel.click(panel.stop, panel.subshell)
    assert kernel.evaluate("panel._run.stop_level", panel.subshell) == "0"
    assert not kernel.has_ended(cell)
    release.touch()
    assert kernel.finish(cell).reply["status"] == "ok"
    assert kernel.wait_until(lambda: kernel.evaluate("panel._run.stop_level", panel.subshell) == "1")


def test_a_run_in_the_foreground_is_stopped_from_a_subshell(kernel, panel):
    """The blocking cell is a run itself, which `%cooptim stop` elsewhere may end."""
    cell = kernel.begin("%cooptim sharded --workers 1 --epochs 10000000 -o foreground")
    assert kernel.wait_until(kernel.is_training)
    assert kernel.evaluate("foreground.stop()", panel.subshell) == "None"
    outcome = kernel.finish(cell)
    assert outcome.reply["status"] == "ok"
    assert ": stopped · " in outcome.text
