"""The lab panel: a way, sliders, Run, Stop, the same as a cell, live curves and hardware, earlier runs; what stays.

A callback of a control may run on any thread and is short. What it has to say goes to the panel's own status line,
never to `print`. What the controls ask for is `asking`; the commands it must not know.
"""

from __future__ import annotations

import threading
import uuid
from html import escape
from typing import Any

import ipywidgets as widgets
from IPython.display import display, update_display

from cooptim_lab import hardware
from cooptim_lab.errors import LabError
from cooptim_lab.hardware.watching import PERIOD_SECONDS
from cooptim_lab.ranks.shared import shared_pool
from cooptim_lab.runs.run import Run

from . import sheets, strip
from .asking import Asked
from .chart import LiveChart
from .controls import Controls, answer_on_own_subshell
from .history import names_of, overlaid
from .plots import mime_bundle
from .session import Session
from .tables import row_doubts
from .view import Follower


class LabPanel:
    """The widgets, and what they do. One run at a time; another panel's, or a lost one's, it goes on showing."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._run: Run[Any] | None = None
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._figure_id, self._table_id = uuid.uuid4().hex, uuid.uuid4().hex
        cpus = hardware.allowed_cpus()
        self.controls = Controls(cpus)
        self.message, self.task = widgets.HTML(), widgets.HTML()
        self.chart = LiveChart(title="nothing has run yet", status=f"{cpus} CPUs", state="idle")
        self.earlier = widgets.SelectMultiple(
            options=[], rows=6, description="runs", layout=widgets.Layout(width="100%", max_width="800px")
        )
        folded = widgets.Accordion(children=[self.earlier], titles=("runs of this notebook: choose one, or several",))
        folded.selected_index = None
        # The message has a line of its own: a long one would squeeze the buttons.
        self.box = widgets.VBox([self.task, self.controls.box, self.message, self.chart, folded])
        self.box.add_class("cooptim-panel")
        self.controls.run.on_click(lambda button: self.start())
        self.controls.stop.on_click(lambda button: self.stop())
        self.controls.as_cell.on_click(lambda button: self.chart.insert(self.asked.line))
        self.controls.observe(self._look)
        self.earlier.observe(lambda change: self._show_earlier(), "value")
        self._look()

    @property
    def asked(self) -> Asked:
        """What the controls say."""
        controls = self.controls
        return Asked.of(controls.way.value, controls.values, self._session.found_plan)

    @property
    def is_running(self) -> bool:
        """Whether its run goes on."""
        return self._run is not None and not self._run.ended

    def open(self) -> None:
        """Show the panel, and under it the places of the figure and the table that a saved notebook keeps."""
        display(self.box)
        for control in (*self.controls.everything, self.earlier):
            answer_on_own_subshell(control)
        for place in (self._figure_id, self._table_id):
            display({"text/plain": ""}, display_id=place, raw=True)
        self._session.closing.append(self.close)
        threading.Thread(target=self._keep_up, name="cooptim-panel-machine", daemon=True).start()
        going_on = next((run for run in reversed(self._session.runs.values()) if not run.ended), None)
        if going_on is not None:
            with self._lock:
                self._take_on(going_on)

    def close(self) -> None:
        """Keep up with nothing any more."""
        self._closed.set()

    def start(self) -> None:
        """Run: what the controls say, on the notebook's current task."""
        with self._lock:
            if self.is_running:
                return
            try:
                run = self.asked.start(self._session.current_task)
            except LabError as error:
                self._say(str(error))
                return
            self._session.runs[run.id] = run
            if self.asked.way.command == "tune":
                self._session.tunings.append((self._session.current_task.name, run))
            self._take_on(run)

    def stop(self) -> None:
        """Stop: after the step it is in; once more interrupts, a third time ends the ranks."""
        run = self._run
        if run is not None and not run.ended:
            run.stop()
            self._say("stopping" + ("" if run.stop_level == 1 else f", asked {run.stop_level} times"))

    def _take_on(self, run: Run[Any]) -> None:
        self._run = run
        self._say("")
        self._enable()
        threading.Thread(target=self._follow, args=(run,), name=f"cooptim-panel-{run.id}", daemon=True).start()

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
        if sheets.table(picture):
            update_display(sheets.full_table(picture), display_id=self._table_id)
        doubts = picture.notes + row_doubts(list(picture.rows.values()))
        self._say(picture.reason or "; ".join(doubts) or f"run {run.id}: {run.state}")
        self._enable()

    def _keep_up(self) -> None:
        """The task and the machine, while nothing runs; while something does, its follower shows the machine.

        As long as a page shows the panel: a cell that is run again, or cleared, leaves one that nobody sees.
        """
        is_watching = was_seen = False
        while True:
            was_seen |= self.chart.views > 0
            is_seen = self.chart.views > 0 or not was_seen
            if is_seen != is_watching:
                strip.watch.join() if is_seen else strip.watch.leave()
                is_watching = is_seen
            if self._closed.wait(PERIOD_SECONDS):
                break
            self._name_task()
            self._list_runs()
            if is_watching and not self.is_running:
                self.chart.show(machine=strip.shown())
        if is_watching:
            strip.watch.leave()

    def _name_task(self) -> None:
        said = f"trains <b>{escape(self._session.current_task.name)}</b>"
        if self.task.value != said:
            self.task.value = said
            self._show_line()

    def _show_line(self) -> None:
        self.controls.line.value = f"<code>{escape(self.asked.line)}</code>"

    def _show_earlier(self) -> None:
        """Those that are chosen; while a run goes on, that has the chart."""
        runs = [self._session.runs[id] for id in self.earlier.value if id in self._session.runs]
        if self.is_running or not runs:
            return
        if len(runs) == 1:
            Follower(runs[0], self.chart).refresh()
        else:
            shown = overlaid(runs)
            self.chart.show(shown.pop("curves"), **shown)

    def _enable(self) -> None:
        self.controls.show_what_is_used(is_running=self.is_running)
        self._list_runs()

    def _list_runs(self) -> None:
        """All of the notebook's, those that cells have started too; what was chosen stays so."""
        names = names_of(self._session.runs)
        if list(self.earlier.options) != names:
            chosen = self.earlier.value
            self.earlier.options = names
            self.earlier.value = tuple(id for _, id in names if id in chosen)

    def _look(self) -> None:
        """The controls say something else."""
        self.controls.show_what_is_used(is_running=self.is_running)
        self._name_task()
        self._show_line()
        cpus, workers = shared_pool().cpus, self.controls.workers
        more = not workers.disabled and workers.value > cpus
        self._say(f"{workers.value} workers share {cpus} CPUs: do not expect a speedup" if more else "")

    def _say(self, text: str) -> None:
        self.message.value = escape(text)
