"""Curves: columns of numbers with a name and a way to be drawn, thinned to what an eye can tell apart; and which of
them stand for a training, a speedup and a cost.

They say what is to be drawn and must not know who draws it: the live chart and the static figure both do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cooptim_lab.costs.formulas import CostRow
from cooptim_lab.studies.beyond import foretell
from cooptim_lab.studies.rows import Row

MOST_POINTS = 600  # per curve: about one for each pixel column of the plot; more could not be seen
MOST_TOGETHER, FEWEST_POINTS = 1200, 60
"""Points of all curves of a live view, which share them: of many curves each needs fewer. At four bytes some 5 KB."""
GAP, STEPS = 65535, 65534
"""Of a number in 16 bits: what is not finite, and on how many steps of its span the others lie."""
DECADE = 10.0
"""A positive curve that spans more is put on steps of its logarithm, so that the small values keep their figures."""
HELD_OUT, TRAINING = "held-out loss", "training loss"
SMOOTHED = 50
"""A loss of single steps is shown as the mean of the last so manieth part of them, the raw one faint behind it."""
MOST_LAWS, FAN_POINTS, APART = 3, 40, 0.01
"""Of a speedup's laws, the best; points of each; by how much two must differ at the end to be drawn both."""
Kind = Literal["line", "faint", "ideal", "marker", "hollow"]


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
    starts = np.arange(0, len(y), width)  # the last bucket may be short

    def first(values: NDArray) -> NDArray[np.intp]:
        """Index of the first largest value in each bucket."""
        whole = len(y) // width
        found = values[: whole * width].reshape(whole, width).argmax(axis=1)
        return starts + (found if whole == len(starts) else np.append(found, values[whole * width :].argmax()))

    highest = first(y if per_bucket == 2 else np.where(finite, y, -np.inf))
    lowest = first(-y if per_bucket == 2 else np.where(finite, -y, -np.inf))
    kept = [[0, len(y) - 1], highest, lowest]
    if per_bucket == 3:
        gaps = first(~finite)
        kept.append(gaps[~finite[gaps]])
    every = np.sort(np.concatenate(kept))  # np.unique takes three times as long, of so few
    return every[np.append(True, every[1:] != every[:-1])]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One curve of n points: `x` and `y` of shape (n,), and where a spread is known `lo` and `hi` of shape (n,).

    `kind` is how it is drawn: "line", "faint" (one of many: a subnet, a rank), "ideal" (dashed, in no colour),
    "marker" (dots, with a bar from lo to hi) or "hollow" (rings over dots that are in doubt). None, NaN and infinity
    in `y` leave a gap. `label` stands beside the last point; `why` is read beside every point.
    """

    name: str
    x: ArrayLike
    y: ArrayLike
    lo: ArrayLike | None = None
    hi: ArrayLike | None = None
    kind: Kind = "line"
    label: str = ""
    why: str = ""

    def pack(self, most: int = MOST_POINTS) -> tuple[dict[str, Any], bytes]:
        """This curve's entry in `curves` and its part of `points`: of `most` points at the most.

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
        keep = thin(columns[1], most)
        columns = [column[keep] for column in columns]
        entry: dict[str, Any] = {"name": self.name, "kind": self.kind, "columns": len(columns), "count": len(keep)}
        if self.kind in ("line", "faint") and len(keep) and np.isfinite(columns[0]).all():
            packed, entry["span"], entry["log"] = _on_steps(*columns)
        else:
            with np.errstate(over="ignore"):  # a loss of 1e39 becomes infinite, which is drawn as a gap
                packed = np.stack(columns, axis=1).astype("<f4")
        if self.label:
            entry["label"] = self.label
        if self.why:
            entry["why"] = self.why
        return entry, packed.tobytes()


def _on_steps(x: NDArray, y: NDArray) -> tuple[NDArray, list[float], bool]:
    """Rows of x and y in 16 bits each, [first, last, lowest, highest], and whether the latter two are logarithms.

    Half precision was weighed: of a loss that stands at 2.3 it makes stairs.
    """
    finite = np.isfinite(y)
    known = y[finite]
    is_log = bool(len(known) and known.min() > 0 and known.max() > DECADE * known.min())
    values = np.log10(y, where=finite, out=np.zeros_like(y)) if is_log else y
    known = values[finite]
    span = [float(x.min()), float(x.max()), *((float(known.min()), float(known.max())) if len(known) else (0.0, 0.0))]
    rows = np.empty((len(x), 2), dtype="<u2")
    rows[:, 0] = _step(x, span[0], span[1])
    rows[:, 1] = GAP
    rows[finite, 1] = _step(known, span[2], span[3])
    return rows, span, is_log


def _step(values: NDArray, low: float, high: float) -> NDArray:
    return np.rint((values - low) * (STEPS / (high - low or 1.0)))


def pack_all(curves: Sequence[Curve]) -> tuple[list[dict[str, Any]], bytes]:
    """All that a live view shows, as it is sent."""
    most = min(MOST_POINTS, max(FEWEST_POINTS, MOST_TOGETHER // max(1, len(curves))))
    packed = [curve.pack(most) for curve in curves]
    return [entry for entry, _ in packed], b"".join(part for _, part in packed)


def loss_curves(points: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> list[Curve]:
    """The losses over the epochs, x and y by their names: the held-out ones first."""
    columns = {name: (np.array(x), np.array(y)) for name, (x, y) in points.items()}  # copies: theirs go on growing
    held_out = [name for name in points if name.endswith(HELD_OUT)]
    curves = [Curve(name.removesuffix(f" · {HELD_OUT}"), *columns[name]) for name in held_out]
    # Losses of single steps are noisy: they lie behind, thin. Those of the subnets share one entry; raw, they would be
    # a carpet.
    for name in points:
        x, y = columns[name]
        if name.startswith("subnet "):
            curves.append(Curve("each sub-network", x, smooth(y), kind="faint"))
        elif name == TRAINING:
            curves.append(Curve(name, x, y, kind="faint"))
            if (smoothed := smooth(y)) is not y:
                curves.append(Curve(name, x, smoothed))
    return curves


def smooth(y: NDArray) -> NDArray:
    """The mean of each value and those before it, a `SMOOTHED`th part of all; what is not finite stays. Of few, y."""
    width = len(y) // SMOOTHED
    if width < 2:
        return y
    finite = np.isfinite(y)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, y, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    ends = np.arange(1, len(y) + 1)
    starts = np.maximum(0, ends - width)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (sums[ends] - sums[starts]) / (counts[ends] - counts[starts])
    return np.where(finite, means, y)


def speedup_curves(rows: Collection[Row]) -> list[Curve]:
    """The measured speedups over the workers, and the line of as many times faster as there are workers.

    The bar is the 95 % interval; the range of the rounds where there is none, as of one round and in records of old. Of
    rows that have no speedup, what the rounds ranged over: no dot, which would be a figure.
    """
    rows = [row for row in rows if row.way != "baseline" and row.repeats]
    if not rows:
        return []
    curves = []
    columns: list[tuple[float, float, float, float]] = [
        (float(row.workers), row.speedup, *(row.interval or (row.low, row.high)))
        for row in rows
        if row.speedup is not None and row.low is not None and row.high is not None
    ]
    if columns:
        name = "measured, 95 % interval" if any(row.interval for row in rows) else "measured"
        curves.append(Curve(name, *map(list, zip(*columns, strict=True)), kind="marker"))
    for row in rows:
        if row.warnings and row.speedup is not None:
            why = "; ".join(row.warnings)
            curves.append(Curve("in doubt", [float(row.workers)], [row.speedup], kind="hollow", why=why))
    for row in rows:
        if row.speedup is None and row.repeats > 1 and row.low is not None and row.high is not None:
            x, y = [float(row.workers)] * 2, [row.low, row.high]
            curves.append(Curve(f"{row.figure} (range)", x, y, kind="faint"))
    most = float(max([2, *(row.workers for row in rows)]))
    fan = law_curves(rows)
    if fan:
        most = float(fan[0].x[-1])
    return [*curves, *fan, Curve("ideal", [1.0, most], [1.0, most], kind="ideal")]


def law_curves(rows: Collection[Row]) -> list[Curve]:
    """The laws that the measured speedups can carry, to twice as many workers; none where they cannot tell.

    Of laws that say the same there, the first; at the end the best one's word, with its interval.
    """
    found = foretell(rows)
    if found is None:
        return []
    counts, curves = np.linspace(1, 2 * found.series.counts[-1], FAN_POINTS), list[Curve]()
    for one in found.fan:
        y = one.rate(counts)
        if len(curves) < MOST_LAWS and all(abs(y[-1] / np.asarray(known.y)[-1] - 1) > APART for known in curves):
            curves.append(Curve(f"law: {one.law.name}", counts, y))
    (end,) = found.at([2 * found.series.counts[-1]])
    if end.tells:
        foretold = ([float(end.count)], [end.rate], [end.low], [end.high])
        curves.append(Curve("foretold, 90 % interval", *foretold, kind="marker"))
    return curves


def cost_curves(
    predicted: Mapping[str, tuple[Sequence[float], Sequence[float]]], measured: Sequence[CostRow]
) -> list[Curve]:
    """Of each way the prediction (workers, seconds a step) as a line, and in its colour what was measured."""
    lines = [Curve(way, x, [1e3 * value for value in y]) for way, (x, y) in predicted.items()]
    markers = []
    for way in dict.fromkeys(row.way for row in measured):
        rows = [row for row in measured if row.way == way]
        columns = ([1e3 * getattr(row, name) for row in rows] for name in ("measured", "low", "high"))
        markers.append(Curve(way, [float(row.workers) for row in rows], *columns, kind="marker"))
    return lines + markers


def end_of_x(kind: str, options: Mapping[str, Any]) -> float:
    """Where x will end, of a run of this kind with these options: at the last epoch, where x is epochs; 0: unknown."""
    is_epochs = axis_labels(kind)["x_label"] == "epoch" and not options.get("until")
    return float(options.get("epochs") or 0) if is_epochs else 0.0


def axis_labels(kind: str) -> dict[str, str]:
    """What stands at the axes of a run of this kind."""
    if kind == "speedup":
        return {"x_label": "workers", "y_label": "speedup 1/P (above 1 is faster)"}
    if kind == "costs":
        return {"x_label": "workers", "y_label": "ms a step (line predicted, dot measured)"}
    if kind == "simulate":
        return {"x_label": "workers", "y_label": "speedup over the network as it is"}
    if kind == "ceilings":
        return {"x_label": "operations per byte", "y_label": "GFLOP/s"}
    if kind == "tune":
        return {"x_label": "row of the table", "y_label": "P to the goal (below 1 is faster)"}
    return {"x_label": "epoch", "y_label": HELD_OUT if kind == "compare" else "loss"}
