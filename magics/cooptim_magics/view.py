"""Shows a run while it goes on, and leaves what stays: a live chart, then in its place a static figure.

Recording is not rendering: everything here only reads the run's log. What a rank prints comes under the cell that
waits, as soon as it is in the log; nothing is ever printed from another thread, where it would land under the newest
cell. The chart is drawn less often: that takes the time of the cores on which ranks compute.
It must not know which command or panel has started the run.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from html import escape
from typing import Any

from IPython.display import display, update_display

from cooptim_lab.errors import InputError
from cooptim_lab.runs.events import Ended, Event, Output, Unfinished
from cooptim_lab.runs.run import Run

from . import sheets, strip
from .chart import LiveChart
from .output import LiveLines, write_output
from .picture import Picture
from .plots import mime_bundle
from .tables import Table

REFRESH_SECONDS = 0.5  # as often as ranks tell of their steps
MOST_KEPT = 20  # charts that a figure has replaced
PRINT_SECONDS = 0.05  # between two looks at what is printed: ranks that print without a pause are printed in lumps


class Interrupted(KeyboardInterrupt):
    """Kernel → Interrupt, after the run has ended cleanly. The cell fails, with one line instead of a stack."""

    def _render_traceback_(self) -> list[str]:
        return [f"KeyboardInterrupt: {self}"]


class Follower:
    """Keeps a picture, and the chart that shows it, up to date with a run's log."""

    def __init__(self, run: Run[Any], chart: LiveChart | None) -> None:
        self.run, self.chart, self.picture = run, chart, Picture(run.title, time.time)
        self._seen, self._drawn = 0, -1
        self.trouble = ""  # what was seen of the machine meanwhile that makes seconds worthless

    def refresh(self) -> None:
        """Take in and show what has happened since the last time."""
        self.take_in()
        self.draw()

    def take_in(self) -> None:
        """What has happened since the last time."""
        events = self.run.log.since(self._seen)
        self._seen += len(events)
        self.picture.feed(events)

    def draw(self) -> None:
        """What was taken in."""
        picture = self.picture
        if self.chart is None:
            return
        machine = strip.shown()
        self.trouble = machine.get("trouble") or self.trouble
        if self._drawn == picture.version:
            self.chart.show(status=picture.status, machine=machine)  # the clock goes on
            return
        self._drawn = picture.version
        self.chart.show(
            picture.curves,
            title=picture.title,
            status=picture.status,
            state=picture.state,
            fraction=picture.fraction,
            table=sheets.table(picture),
            machine=machine,
            log_x=picture.is_logarithmic_in_x,
            log_y=picture.is_logarithmic,
            **picture.labels,
        )

    def start_over(self) -> None:
        """Read the log from its start again: an interrupt may have cut a refresh short."""
        self.picture, self._seen, self._drawn = Picture(self.run.title, time.time), 0, -1

    def until_the_end(self) -> None:
        """Refresh until the run has ended, on a thread that may wait."""
        while not self.run.join(REFRESH_SECONDS):
            self.refresh()
        self.refresh()


class RunView:
    """One run in one output area."""

    def __init__(self, run: Run[Any], *, has_chart: bool = True) -> None:
        self.run = run
        self.follower = Follower(run, LiveChart(title=run.title) if has_chart else None)
        self._display_id = uuid.uuid4().hex
        self._printed = 0
        self._lines = LiveLines()

    def open(self) -> None:
        """Put the chart under the running cell."""
        if self.follower.chart is not None:
            strip.watch.join()
            display(self.follower.chart, display_id=self._display_id)

    def print_output(self) -> None:
        """Print what the ranks have printed since the last time; only from the thread of the waiting cell."""
        lines = self.follower.picture.output[self._printed :]
        self._printed += len(lines)
        write_output(lines)
        self._lines.show(self.run.log.unfinished())

    def freeze(self, *, is_raised: bool) -> None:
        """Replace the chart by a figure that a saved notebook keeps.

        `is_raised`: the cell raises what makes a run fail, which says why; the figure does not say it again.
        """
        self._lines.clear()
        if self.follower.chart is not None:
            refused = is_raised and isinstance(self.run.error, InputError)  # one line to read, and nothing to see
            bundle = {"text/plain": ""} if refused else mime_bundle(self.follower.picture, with_reason=not is_raised)
            update_display(bundle, display_id=self._display_id, raw=True)
            strip.watch.leave()
            _keep(self.follower.chart)

    def reserve_table(self) -> None:
        """A place under the chart, for what comes when nobody waits for it any more."""
        display({"text/plain": ""}, display_id=f"{self._display_id}-table", raw=True)

    def leave_table(self) -> None:
        """In that place, what `show_result` would show."""
        said, tables = came_to(self.follower.picture)
        said += [f"⚠ {self.follower.trouble}"] if self.follower.trouble else []
        html = "".join(f"<div>{escape(line)}</div>" for line in said) + "".join(t._repr_html_() for t in tables)
        bundle = {"text/plain": "\n".join([*said, *map(repr, tables)]), "text/html": html}
        update_display(bundle, display_id=f"{self._display_id}-table", raw=True)


def _keep(chart: LiveChart) -> None:
    """A chart that has been replaced stays for a while: a page that was loaded again meanwhile still shows it."""
    _replaced.append(chart)
    if len(_replaced) > MOST_KEPT:
        _replaced.popleft().close()


_replaced: deque[LiveChart] = deque()


def came_to(picture: Picture) -> tuple[list[str], list[Table]]:
    """What a run ends in: the measured rows with their doubts; of a training, its doubts and where its time went."""
    if picture.rows or picture.costs or picture.simulated or picture.ceilings or picture.raced:
        return [], sheets.full_tables(picture)
    lines = [*(f"⚠ {note}" for note in picture.notes), *picture.remarks]
    return lines, [Table(sheets.table(picture), [picture.verdict])] if picture.has_breakdown else []


def show_result(picture: Picture) -> None:
    """Show what a run came to."""
    lines, tables = came_to(picture)
    for line in lines:
        print(line)
    for table in tables:
        display(table)


def watch(view: RunView) -> None:
    """Wait for the end of a run in the running cell, showing it; an interrupt stops the run, then fails the cell.

    Raises
    ------
    Interrupted
        After an interrupt, when the run has ended.
    LabError
        What made the run fail.
    """
    run, interrupts, to_draw, has_more = view.run, 0, 0.0, threading.Event()

    def listen(event: Event) -> None:
        if isinstance(event, Output | Unfinished | Ended):
            has_more.set()

    view.open()
    run.log.listen(listen)
    while not run.ended:
        try:
            has_more.clear()
            view.follower.take_in()
            view.print_output()
            if time.monotonic() >= to_draw:
                view.follower.draw()
                to_draw = time.monotonic() + REFRESH_SECONDS
            if not run.join(PRINT_SECONDS):
                has_more.wait(max(0.0, to_draw - time.monotonic()))
        except KeyboardInterrupt:
            interrupts += 1
            run.stop()
    if interrupts:
        view.follower.start_over()
    view.follower.refresh()
    view.print_output()
    view.freeze(is_raised=True)
    if view.follower.trouble:
        print(f"⚠ {view.follower.trouble}")
    if run.error is not None:
        raise run.error
    if interrupts:
        kept = "; what was trained is kept" if run.result is not None else ""
        raise Interrupted(f"run {run.id} was stopped{run.aftermath}{kept}")


def watch_in_background(view: RunView) -> None:
    """The same without waiting: the view goes on in a thread of its own, which prints nothing."""
    id = view.run.id
    print(f"run {id} goes on in the background: %cooptim stop {id} ends it, %cooptim show {id} draws it again")
    view.open()
    view.reserve_table()

    def follow() -> None:
        view.follower.until_the_end()
        view.freeze(is_raised=False)
        view.leave_table()

    threading.Thread(target=follow, name=f"cooptim-view-{view.run.id}", daemon=True).start()
