"""The live view: a drawing surface for curves, progress, a status line and a small table.

It draws what it is given and must not know what a run, an event or a rank is: `view.py` feeds it.

What travels: `points` is one little-endian buffer that holds the curves one after another, each row by row. `curves`
says how to read it: `{"name", "kind", "columns", "count"}`, where `columns` is 2 (x, y) or 4 (x, y, lo, hi) float32 and
`count` the number of rows. Where there is a "span" [first, last, lowest, highest], a row is two uint16, x and y on
65,534 steps from one end to the other, 65,535 being a gap; with "log" the latter two are decimal logarithms of y.
"label", where there is one, is what stands beside the last row, "why" beside each. Colours go by
order of appearance; curves of one name share a colour and a legend entry.
float32 holds whole numbers up to 2**24, so x counts from the start of a run (steps, seconds), never from the epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import traitlets
from numpy.typing import ArrayLike

from .curves import Curve, pack_all

STATES = ("idle", "waiting", "running", "done", "stopped", "failed")
_STATIC = Path(__file__).parent / "static"


def bundle(*names: str) -> str:
    """Scripts, or styles, as one: a widget has one of each, and no page may fetch another."""
    return "\n".join((_STATIC / name).read_text(encoding="utf-8") for name in names)


class LiveChart(anywidget.AnyWidget):
    """A plot that moves while something runs. All of it is set by `show`, from one thread at a time."""

    _esm = bundle("strip.js", "live.js")
    _css = bundle("live.css", "strip.css")

    points = traitlets.Bytes().tag(sync=True)
    curves = traitlets.List(traitlets.Dict()).tag(sync=True)
    title = traitlets.Unicode().tag(sync=True)
    x_label = traitlets.Unicode().tag(sync=True)
    y_label = traitlets.Unicode().tag(sync=True)
    x_end = traitlets.Float(0.0, help="where x will end, while it runs; 0: not known").tag(sync=True)
    log_x = traitlets.Bool(False).tag(sync=True)
    log_y = traitlets.Bool(False).tag(sync=True)
    status = traitlets.Unicode(help="one line under the plot").tag(sync=True)
    state = traitlets.Enum(STATES, default_value="waiting").tag(sync=True)
    fraction = traitlets.Float(None, allow_none=True, help="done so far, 0 to 1; None: unknown").tag(sync=True)
    table = traitlets.List(traitlets.List(traitlets.Unicode()), help="rows; the first is the header").tag(sync=True)
    machine = traitlets.Dict(help="a sample of the hardware, as strip.shown gives it; empty: none").tag(sync=True)

    SETTABLE = frozenset((
        "title", "x_label", "y_label", "x_end", "log_x", "log_y", "status", "state", "fraction", "table", "machine",
    ))  # fmt: skip

    _view_count = traitlets.Int(0, allow_none=True).tag(sync=True)  # ipywidgets': a page counts where it is not None

    @property
    def views(self) -> int:
        """In how many places pages show it; 0 where none does, or none has told."""
        return self._view_count or 0

    def show(
        self, curves: Mapping[str, tuple[ArrayLike, ArrayLike]] | Iterable[Curve] | None = None, **traits: Any
    ) -> None:
        """Draw `curves` and set `traits` (those of SETTABLE), all in one message; what is not given stays as it is.

        `curves` is a mapping from name to (x, y), drawn as lines, or any number of `Curve`.
        """
        if unknown := traits.keys() - self.SETTABLE:
            raise TypeError(f"show() cannot set {sorted(unknown)}; it sets {sorted(self.SETTABLE)}")
        if isinstance(curves, Mapping):
            curves = [Curve(name, x, y) for name, (x, y) in curves.items()]
        if curves is not None:
            traits["curves"], traits["points"] = pack_all(list(curves))
        with self.hold_sync():
            for name, value in traits.items():
                if getattr(self, name) != value:  # checking a value costs more than looking whether it is another
                    setattr(self, name, value)

    def insert(self, line: str) -> None:
        """Have the page put a line into a new cell below its own, or, where it cannot, into the clipboard."""
        self.send({"insert": line})
