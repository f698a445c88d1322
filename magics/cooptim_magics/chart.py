"""The live view: a drawing surface for curves, progress, a status line and a small table.

It draws what it is given and must not know what a run, an event or a rank is: `picture.py` feeds it.

What travels: `points` is one little-endian float32 buffer that holds the curves one after another, each row by row.
`curves` says how to read it: `{"name", "kind", "columns", "count"}`, where `columns` is 2 (x, y) or 4 (x, y, lo, hi)
and `count` the number of rows. Colours go by order of appearance; curves of one name share a colour and a legend entry.
float32 holds whole numbers up to 2**24, so x counts from the start of a run (steps, seconds), never from the epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import anywidget
import numpy as np
import traitlets
from numpy.typing import ArrayLike, NDArray

STATES = ("waiting", "running", "done", "stopped", "failed")
MOST_POINTS = 600  # per curve: about one for each pixel column of the plot; more could not be seen
Kind = Literal["line", "faint", "ideal", "marker"]
_STATIC = Path(__file__).parent / "static"


def thin(y: ArrayLike, most: int = MOST_POINTS) -> NDArray[np.intp]:
    """Which of the n points `y` to keep, so that a plot of them looks the same: at most `most` sorted indices.

    The curve is cut into buckets of equal width; the lowest and the highest point of each are kept, and the first and
    the last point of all, so no spike is lost. Where a bucket holds values that are not finite, one of them is kept
    too: it draws the gap.
    """
    y = np.asarray(y, dtype=float)
    if len(y) <= most:
        return np.arange(len(y))
    finite = np.isfinite(y)
    per_bucket = 2 if finite.all() else 3
    if most < per_bucket + 2:
        raise ValueError(f"most={most}: at least {per_bucket + 2} points are needed to keep the ends and the extremes")
    width = -(-len(y) // ((most - 2) // per_bucket))
    fill = -len(y) % width  # the last bucket may be short

    def first(values: NDArray, pad: float) -> NDArray[np.intp]:
        """Index of the first largest value in each bucket."""
        buckets = np.pad(values, (0, fill), constant_values=pad).reshape(-1, width)
        return buckets.argmax(axis=1) + np.arange(0, len(y) + fill, width)

    highest = first(np.where(finite, y, -np.inf), -np.inf)
    lowest = first(np.where(finite, -y, -np.inf), -np.inf)
    kept = [[0, len(y) - 1], highest, lowest]
    if per_bucket == 3:
        gaps = first(~finite, False)
        kept.append(gaps[~finite[gaps]])
    return np.unique(np.concatenate(kept))


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One curve of n points: `x` and `y` of shape (n,), and where a spread is known `lo` and `hi` of shape (n,).

    `kind` is how it is drawn: "line", "faint" (one of many: a subnet, a rank), "ideal" (dashed, in no colour) or
    "marker" (dots, with a bar from lo to hi). None, NaN and infinity in `y` leave a gap.
    """

    name: str
    x: ArrayLike
    y: ArrayLike
    lo: ArrayLike | None = None
    hi: ArrayLike | None = None
    kind: Kind = "line"

    def pack(self) -> tuple[dict[str, Any], bytes]:
        """This curve's entry in `curves` and its part of `points`.

        Raises ValueError for an unknown kind, for columns of unequal length, or for only one of `lo` and `hi`.
        """
        if self.kind not in get_args(Kind):
            raise ValueError(f"curve {self.name!r}: kind {self.kind!r} is not one of {', '.join(get_args(Kind))}")
        if (self.lo is None) != (self.hi is None):
            raise ValueError(f"curve {self.name!r}: give both lo and hi, or neither")
        given = (self.x, self.y) if self.lo is None else (self.x, self.y, self.lo, self.hi)
        columns = [np.asarray(column, dtype=float) for column in given]
        shapes = {column.shape for column in columns}
        if len(shapes) != 1 or columns[0].ndim != 1:
            raise ValueError(f"curve {self.name!r}: columns must be flat and of one length, not {sorted(shapes)}")
        keep = thin(columns[1])
        with np.errstate(over="ignore"):  # a loss of 1e39 becomes infinite, which is drawn as a gap
            rows = np.stack([column[keep] for column in columns], axis=1).astype("<f4")
        entry = {"name": self.name, "kind": self.kind, "columns": len(columns), "count": len(rows)}
        return entry, rows.tobytes()


class LiveChart(anywidget.AnyWidget):
    """A plot that moves while something runs. All of it is set by `show`, from one thread at a time."""

    _esm = _STATIC / "live.js"
    _css = _STATIC / "live.css"

    points = traitlets.Bytes().tag(sync=True)
    curves = traitlets.List(traitlets.Dict()).tag(sync=True)
    title = traitlets.Unicode().tag(sync=True)
    x_label = traitlets.Unicode().tag(sync=True)
    y_label = traitlets.Unicode().tag(sync=True)
    log_y = traitlets.Bool(False).tag(sync=True)
    status = traitlets.Unicode(help="one line under the plot").tag(sync=True)
    state = traitlets.Enum(STATES, default_value="waiting").tag(sync=True)
    fraction = traitlets.Float(None, allow_none=True, help="done so far, 0 to 1; None: unknown").tag(sync=True)
    table = traitlets.List(traitlets.List(traitlets.Unicode()), help="rows; the first is the header").tag(sync=True)

    SETTABLE = frozenset({"title", "x_label", "y_label", "log_y", "status", "state", "fraction", "table"})

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
            packed = [curve.pack() for curve in curves]
            traits["curves"] = [entry for entry, _ in packed]
            traits["points"] = b"".join(part for _, part in packed)
        with self.hold_sync():
            for name, value in traits.items():
                setattr(self, name, value)
