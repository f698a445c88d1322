"""The lab panel: sliders for workers and N, Run, Stop, live curves, and the figure that stays.

Controls answer while a cell blocks: their messages travel on subshells (see `answer_on_own_subshell`), so a callback
may run on any thread and is short. What a callback has to say goes to the panel's own status line, never to `print`.
It does by itself what the commands do by theirs, and must know none of them.
"""

from __future__ import annotations

import threading
import uuid
from html import escape
from typing import Any

import ipywidgets as widgets
from IPython.display import display, update_display

from cooptim_lab import hardware, ways
from cooptim_lab.errors import LabError
from cooptim_lab.hardware.watching import PERIOD_SECONDS
from cooptim_lab.ranks.shared import shared_pool
from cooptim_lab.runs.run import Run
from cooptim_lab.studies.compare import Comparison, compare
from cooptim_lab.training.spec import Baseline, Sharded, Subnets, make_spec

from . import strip
from .chart import LiveChart
from .plots import mime_bundle
from .session import Session
from .tables import row_doubts
from .view import Follower

WAYS = {
    "as it is": Baseline,
    "sub-networks": Subnets,
    "sharded, central server": Sharded,
    "compare all three": Comparison,
}
MOST_WORKERS, MOST_SUBNETS, MOST_EPOCHS = 8, 64, 200


def answer_on_own_subshell(widget: widgets.Widget) -> None:
    """Have a control's messages served where the page sent them.

    ipykernel 7.4 hands them to the shell that last wrote to the control, which is the main one, and busy while a cell
    runs. Its routing asks the comm; versions without that routing do the right thing by themselves.
    """
    if hasattr(widget.comm, "_reply_subshell_for"):
        widget.comm._reply_subshell_for = lambda data, default: default


class LabPanel:
    """The widgets, and what they do. One run at a time."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._run: Run[Any] | None = None
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._figure_id, self._table_id = uuid.uuid4().hex, uuid.uuid4().hex
        cpus = hardware.allowed_cpus()
        wide = {"style": {"description_width": "70px"}, "layout": widgets.Layout(width="330px")}
        self.way = widgets.Dropdown(options=list(WAYS), value="sub-networks", description="way", **wide)
        self.workers = widgets.IntSlider(
            value=min(2, cpus),
            min=1,
            max=max(MOST_WORKERS, cpus),
            description="workers",
            continuous_update=False,
            **wide,
        )
        self.subnets = widgets.IntSlider(
            value=4, min=1, max=MOST_SUBNETS, description="N", continuous_update=False, **wide
        )
        self.epochs = widgets.IntSlider(
            value=20, min=1, max=MOST_EPOCHS, description="epochs", continuous_update=False, **wide
        )
        self.run_button = widgets.Button(description="Run", button_style="primary", icon="play")
        self.stop_button = widgets.Button(description="Stop", icon="stop", disabled=True)
        self.message = widgets.HTML()
        self.chart = LiveChart(title="nothing has run yet", status=f"{session.current_task.name} on {cpus} CPUs")
        self.controls = (self.way, self.workers, self.subnets, self.epochs, self.run_button, self.stop_button)
        self.box = widgets.VBox(
            [
                widgets.HBox([widgets.VBox([self.way, self.epochs]), widgets.VBox([self.workers, self.subnets])]),
                widgets.HBox([self.run_button, self.stop_button]),
                self.message,  # a line of its own: a long one would squeeze the buttons
                self.chart,
            ]
        )
        self.box.add_class("cooptim-panel")
        self.run_button.on_click(lambda button: self.start())
        self.stop_button.on_click(lambda button: self.stop())
        self.way.observe(lambda change: self._enable(), "value")
        self.workers.observe(lambda change: self._warn(), "value")
        self._enable()
        self._warn()

    def open(self) -> None:
        """Show the panel, and under it the places of the figure and the table that a saved notebook keeps."""
        display(self.box)
        for control in self.controls:
            answer_on_own_subshell(control)
        for place in (self._figure_id, self._table_id):
            display({"text/plain": ""}, display_id=place, raw=True)
        strip.watch.join()
        self._session.closing.append(self.close)
        threading.Thread(target=self._show_machine, name="cooptim-panel-machine", daemon=True).start()

    def close(self) -> None:
        """Let go of the sampler."""
        if not self._closed.is_set():
            self._closed.set()
            strip.watch.leave()

    def _show_machine(self) -> None:
        """While nothing runs; while something does, the follower of that shows it."""
        while not self._closed.wait(PERIOD_SECONDS):
            if self._run is None or self._run.ended:
                self.chart.show(machine=strip.shown())

    def start(self) -> None:
        """Run: what the controls say, on the notebook's current task."""
        with self._lock:
            if self._run is not None and not self._run.ended:
                return
            try:
                self._run = run = self._launch()
            except LabError as error:
                self._say(str(error))
                return
            self._session.runs[run.id] = run
        self._say("")
        self._enable()
        threading.Thread(target=self._follow, args=(run,), name=f"cooptim-panel-{run.id}", daemon=True).start()

    def stop(self) -> None:
        """Stop: after the step it is in; once more interrupts, a third time ends the ranks."""
        run = self._run
        if run is not None and not run.ended:
            run.stop()
            self._say("stopping" + ("" if run.stop_level == 1 else f", asked {run.stop_level} times"))

    def _launch(self) -> Run[Any]:
        kind, task = WAYS[self.way.value], self._session.current_task
        asked = {"workers": self.workers.value, "subnets": self.subnets.value, "epochs": self.epochs.value}
        if kind is Comparison:
            return compare(task, **asked)
        if kind is not Subnets:
            del asked["subnets"]
        if kind is Baseline:
            del asked["workers"]
        return ways.launch(task, make_spec(kind, asked))

    def _follow(self, run: Run[Any]) -> None:
        """On a thread of its own: feed the chart until the run has ended, then leave figure and table below it.

        What is left is hidden while the panel lives (live.css), and all that a reader sees when it does not.
        """
        going_on = f"run {run.id} is going on; if the page is loaded again, %cooptim show {run.id} draws it"
        update_display({"text/plain": going_on}, display_id=self._figure_id, raw=True)
        update_display({"text/plain": ""}, display_id=self._table_id, raw=True)
        follower = Follower(run, self.chart)
        follower.until_the_end()
        picture = follower.picture
        update_display(mime_bundle(picture), display_id=self._figure_id, raw=True)
        if picture.table:
            update_display(picture.full_table, display_id=self._table_id)
        doubts = picture.notes + row_doubts(list(picture.rows.values()))
        self._say(picture.reason or "; ".join(doubts) or f"run {run.id}: {run.state}")
        self._enable()

    def _enable(self) -> None:
        is_running = self._run is not None and not self._run.ended
        kind = WAYS[self.way.value]
        self.run_button.disabled, self.stop_button.disabled = is_running, not is_running
        self.workers.disabled = kind is Baseline
        self.subnets.disabled = kind not in (Subnets, Comparison)

    def _warn(self) -> None:
        cpus = shared_pool().cpus
        more = self.workers.value > cpus
        self._say(f"{self.workers.value} workers share {cpus} CPUs: do not expect a speedup" if more else "")

    def _say(self, text: str) -> None:
        self.message.value = escape(text)
