"""What ranks print, put under the running cell: whole lines printed, those without an end in a text that is replaced.

Only for the thread of the cell. Which run it is, and when there is something new, is not known here.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Sequence
from itertools import groupby

from IPython import get_ipython
from IPython.display import display, update_display

from cooptim_lab.runs.events import Output, Unfinished


def write_output(events: Sequence[Output]) -> None:
    """Print lines, each with its rank in front if that is known, on the streams that they came from."""
    for name, group in groupby(events, lambda event: event.stream):
        stream = sys.stdout if name == "stdout" else sys.stderr
        stream.write("".join(map(_marked, group)))
        stream.flush()  # else a kernel gathers for a while


def _marked(event: Output | Unfinished) -> str:
    if event.rank is None:
        return event.text
    mark, is_whole = f"[{event.rank}] ", event.text.endswith("\n")
    return mark + event.text.removesuffix("\n").replace("\n", f"\n{mark}") + ("\n" if is_whole else "")


class LiveLines:
    """The lines that have no end yet, as they look now.

    They are first shown where the cell's output has come to by then, and stay there. A terminal has no place that could
    be written anew, so they are not shown in one.
    """

    def __init__(self) -> None:
        self._display_id = uuid.uuid4().hex
        self._shown: str | None = None

    def show(self, lines: Sequence[Unfinished]) -> None:
        """These, in the place of those that were shown before."""
        text = "\n".join(map(_marked, lines))
        if text == (self._shown or "") or not can_replace():
            return
        is_first, self._shown = self._shown is None, text
        show = display if is_first else update_display
        show({"text/plain": text}, raw=True, display_id=self._display_id)

    def clear(self) -> None:
        """Leave nothing, also where an interrupt has cut `show` short."""
        if self._shown is not None:
            self._shown = ""
            update_display({"text/plain": ""}, raw=True, display_id=self._display_id)


def can_replace() -> bool:
    """Whether what was displayed can be replaced: by a kernel, which has a page."""
    return getattr(get_ipython(), "kernel", None) is not None
