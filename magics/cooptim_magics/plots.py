"""The figure that stays in the saved notebook: a Picture drawn by Matplotlib.

`matplotlib.figure.Figure` only, never pyplot: figures may be made off the main thread, and the user's own pyplot state
and styles are not touched. It draws a Picture and must not know the run behind it.
"""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from .picture import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito, Color Universal Design, 2008; in the order that the live chart uses too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SIZE = (6.4, 3.4)  # inches, at DPI about as large as the live chart
WIDE = (9.6, 3.4)
DPI = 100
LINE, MOST_LINES = 80, 6  # of the title: at its size as wide as the curves, and leaving room for them
MOST_TICKS = 16
PARTS = {
    "compute": "#0072B2", "communication": "#D55E00", "waiting": "#BBBBBB",
    "computing": "#0072B2", "exchanging": "#D55E00", "dispatch": "#E69F00",
}  # fmt: skip
"""Where a rank's time goes, and where that of a step that was simulated."""


def figure(picture: Picture, said: str | None = None) -> Figure:
    """Draw what the live chart shows at this moment; `said` stands under the title in place of the sentence."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    bars = picture.bars
    if bars:
        drawing = Figure(figsize=WIDE, dpi=DPI, layout="constrained")
        axes, beside = drawing.subplots(1, 2, width_ratios=(3, 2))
        _draw_bars(beside, bars, "way" if picture.simulated else "rank")
    else:
        drawing = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
        axes = drawing.add_subplot()
    curves, colours, named = picture.curves, dict[str, str](), set[str]()
    faintness = max(0.08, 0.5 / max(1, sum(curve.kind == "faint" for curve in curves)) ** 0.5)
    for curve in curves:
        x, y = np.asarray(curve.x, float), np.asarray(curve.y, float)
        if curve.kind == "ideal":
            axes.plot(x, y, "--", color="grey", linewidth=1, label=curve.name)
            continue
        if curve.kind == "hollow":
            is_first = "in doubt" not in axes.get_legend_handles_labels()[1]
            look = {"markerfacecolor": "white", "markeredgecolor": "grey", "zorder": 5}
            axes.plot(x, y, "o", label=curve.name if is_first else None, **look)
            continue
        colour = colours.setdefault(curve.name, COLOURS[len(colours) % len(COLOURS)])
        is_named = curve.kind != "faint" or not any(each.name == curve.name and each.kind == "line" for each in curves)
        label = curve.name if is_named and curve.name not in named else None
        named |= {label} if label else set()
        dot = "." if len(x) == 1 else None  # a line of one point would not be seen
        if curve.kind == "marker":
            lo, hi = np.asarray(curve.lo, float), np.asarray(curve.hi, float)
            axes.errorbar(x, y, yerr=[y - lo, hi - y], fmt="o-", linewidth=0.8, capsize=3, color=colour, label=label)
        elif curve.kind == "faint":
            axes.plot(x, y, linewidth=0.8, alpha=faintness, color=colour, label=label, zorder=1, marker=dot)
        else:
            axes.plot(x, y, linewidth=1.6, color=colour, label=label, marker=dot)
    below = textwrap.fill(picture.sentence if said is None else said, LINE, max_lines=MOST_LINES, placeholder=" …")
    # No mathematics in it: these may be the words of a user's own error.
    axes.set_title(f"{picture.title}\n{below}", fontsize=9, loc="left", parse_math=False)
    axes.set_xlabel(picture.labels["x_label"])
    axes.set_ylabel(picture.labels["y_label"])
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if picture.is_logarithmic:
        axes.set_yscale("log")
        for axis_format in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            axis_format(FuncFormatter(_plain_tick))
    if picture.kind == "speedup":
        axes.set_ylim(bottom=0)
    if picture.is_logarithmic_in_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(_plain_tick))
        axes.set_xlabel(f"{picture.labels['x_label']} (log scale)")
        axes.set_ylabel(f"{picture.labels['y_label']} (log scale)")
        _write_labels(axes, picture)
    else:
        axes.xaxis.get_major_locator().set_params(integer=True)
    if colours:
        axes.legend(frameon=False, fontsize=8)
    return drawing


def _draw_bars(axes: Axes, bars: Mapping[str, Mapping[str, float]], of: str) -> None:
    """A bar for every rank or way: the milliseconds of a step, by what they go to."""
    places, left = list(range(len(bars))), np.zeros(len(bars))
    for name in next(iter(bars.values())):
        each = [1e3 * parts[name] for parts in bars.values()]
        axes.barh(places, each, left=left, color=PARTS[name], label=name, height=0.7)
        left += each
    axes.set_yticks(*((places, list(bars)) if len(bars) <= MOST_TICKS else ([],)))
    axes.invert_yaxis()
    axes.set_ylabel(of)
    axes.set_xlabel("ms a step")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(
        frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderpad=0, columnspacing=1
    )


def _write_labels(axes: Axes, picture: Picture) -> None:
    """What stands beside a curve's last point."""
    for curve in picture.curves:
        if curve.label:
            end = float(np.asarray(curve.x)[-1]), float(np.asarray(curve.y)[-1])
            axes.annotate(curve.label, end, xytext=(6, -3), textcoords="offset points", fontsize=7, parse_math=False)


def _plain_tick(value: float, position: int | None = None) -> str:
    """1, 0.5, 0.1 as everywhere else in the kit; the ticks between are marked, not named."""
    return f"{value:g}" if f"{value:.0e}"[0] in "125" else ""


def mime_bundle(picture: Picture, *, with_reason: bool = True) -> dict[str, str]:
    """The picture as a notebook keeps it: a PNG, and one line of text for readers without images.

    `with_reason=False`: why it failed stands beside the picture, which says no more than that it did.
    """
    said = picture.sentence if with_reason or not picture.reason else picture.state
    if not picture.curves:
        return {"text/plain": f"{picture.title}: {said if picture.reason else picture.state}"}
    buffer = io.BytesIO()
    figure(picture, said).savefig(buffer, format="png")
    return {
        "image/png": base64.b64encode(buffer.getvalue()).decode("ascii"),
        "text/plain": f"{picture.title}: {said}",
    }
