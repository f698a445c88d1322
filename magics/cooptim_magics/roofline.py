"""A machine's ceilings as they are shown: the roofline with a task's layers on it, the table of figures, the layers'.

After Williams, Waterman and Patterson (see `cooptim_lab.hardware.ceilings`): over the operations that are made for each
byte, no more can be reached than the lower of the rate of products and of the bandwidth times that number. It is given
figures, and must not know of which run they are.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable

from cooptim_lab.costs.families import FUNCTIONS
from cooptim_lab.costs.work import Layer, Step, Work
from cooptim_lab.hardware.ceilings import (
    BANDWIDTHS,
    BF16,
    FLOAT32,
    INSIDE,
    PRECISIONS,
    RATES,
    SKINNY_ROWS,
    Ceiling,
    Ceilings,
)

from .curves import Curve
from .figures import FUNCTION, LAYERS, LINKS, OPTIMIZER, PLAIN
from .tables import Cells, Table
from .words import percent

WIDTHS = {FLOAT32: 4, BF16: 2, INSIDE: 4}
"""Bytes of a number."""
LEAST_INTENSITY, MOST_INTENSITY = 0.25, 200.0
"""Operations per byte between which the roof is drawn, where no point lies further out."""
SHOWN = (16, 64, 256, 1024)
"""Sizes that the table names; all are in the picture."""
MOST_LABELS, MOST_NAMES, MOST_LETTERS = 12, 3, 16
"""Of the layers' names in the picture: of so many places, so many at one, of so many letters."""
NEAR = 0.06
"""Decades, both ways: points that lie so near each other share a label."""


def of(rows: Iterable[Ceiling], step: Step | None = None) -> Ceilings:
    """What can be asked of figures that may not be all; with how many threads all cores work, the step knows too."""
    rows = tuple(rows)
    threads = max([1 if step is None else step.threads, *(row.threads for row in rows)])
    return Ceilings(fingerprint={}, taken=0.0, seconds=0.0, cpus=threads, rows=rows)


def cores(threads: int) -> str:
    """1 core, 2 cores."""
    return f"{threads} core{'s' * (threads != 1)}"


# The picture.


def roofline_curves(rows: Collection[Ceiling], step: Step | None) -> list[Curve]:
    """The measured products with their roofs, in float32 with one core and with all, in bf16 with all; the layers.

    What is still to come has its place, with no point in it, so that colours stay.
    """
    if not rows and step is None:
        return []
    known = of(rows, step)
    series = [(FLOAT32, threads) for threads in sorted({1, known.cpus})] + [(BF16, known.cpus)]
    curves = [curve for precision, threads in series for curve in _one(known, precision, threads)]
    return curves + (_layers(step) if step is not None else [])


def _one(known: Ceilings, precision: str, threads: int) -> list[Curve]:
    name = f"{precision}, {cores(threads)}"
    points = [row for row in known.find("square", precision, threads) if row.value]
    if not points:
        is_refused = any((row.kind, row.name, row.threads) == ("square", precision, threads) for row in known.rows)
        return [] if is_refused else [Curve(name, [], [], [], [], kind="marker")]
    x = [_square(row.size, precision) for row in points]
    columns = [[getattr(row, part) for row in points] for part in ("value", "low", "high")]
    dots = Curve(name, x, *columns, kind="marker")
    bandwidth = known.one("memory", "", threads)
    peak = known.peak(precision, threads)
    if not bandwidth or not peak:
        return [dots]
    corner = peak / bandwidth
    ends = [min(LEAST_INTENSITY, corner / 4, *x), corner, max(MOST_INTENSITY, corner * 4, *x)]
    return [Curve(name, ends, [min(peak, bandwidth * each) for each in ends]), dots]


def _square(n: int, precision: str) -> float:
    """Operations per byte of n × n by n × n: 2 n³ over three matrices that are read or written once."""
    return 2 * n**3 / (3 * n * n * WIDTHS[precision])


def _layers(step: Step) -> list[Curve]:
    """Of each layer that computes something, what its forward pass reached; all under one name."""
    places = []
    for layer in step.layers:
        if layer.seconds and (intensity := layer.forward.intensity):
            rates = [layer.forward.operations / seconds / 1e9 for seconds in layer.seconds]
            spread = statistics.quantiles(rates, n=4, method="inclusive") if len(rates) > 1 else rates * 3
            places.append((layer.name or "model", intensity, *spread))
    labels = _labels([(name, x, middle) for name, x, _, middle, _ in places])
    group = f"layers of {step.name}, {cores(step.threads)}"
    return [
        Curve(group, [x], [middle], [low], [high], kind="marker", label=labels.get(name, ""))
        for name, x, low, middle, high in places
    ]


def _labels(places: Collection[tuple[str, float, float]]) -> dict[str, str]:
    """What stands beside each point (name, x, y): its name, and the names of those that lie on it; of a few only."""
    found: dict[str, tuple[float, float, list[str]]] = {}
    for name, x, y in places:
        for at_x, at_y, names in found.values():
            if max(abs(math.log10(x / at_x)), abs(math.log10(y / at_y))) < NEAR:
                names.append(name)
                break
        else:
            found[name] = x, y, [name]
    return {name: _joined(names) for name, (_, _, names) in list(found.items())[:MOST_LABELS]}


def _joined(names: list[str]) -> str:
    """The names, as far as there is room: of a long path its end, which says most; of many how many more."""
    names = [name if len(name) <= MOST_LETTERS else f"…{name[1 - MOST_LETTERS :]}" for name in names]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


# The figures.


def ceilings_line(rows: Collection[Ceiling]) -> str:
    """The roofs of all cores."""
    known = of(rows)
    peaks = [(name, known.peak(name, known.cpus)) for name in (FLOAT32, BF16)]
    said = [f"{name} {peak:.3g} GFLOP/s" for name, peak in peaks if peak]
    bandwidth = known.one("memory", "", known.cpus)
    return " · ".join([*said, *([f"memory {bandwidth:.3g} GB/s"] if bandwidth else []), cores(known.cpus)])


def ceilings_table(rows: Collection[Ceiling]) -> Cells:
    """(what, value and quartiles for one core and for all, what it means): a row for each kind, not for each size."""
    known = of(rows)
    counts = sorted({1, known.cpus})
    head = ["what", *(cell for threads in counts for cell in (cores(threads), "quartiles")), "what it means"]
    body = [
        *(_product_row(known, kind, name, counts) for kind in ("square", "skinny") for name in PRECISIONS),
        *(_sizes_row(known, what, kind, name, counts, means) for what, kind, name, means in LAYERS),
        *(_plain_row(known, what, kind, "", counts, means) for what, kind, means in PLAIN),
        *(_plain_row(known, family, "function", family, counts, FUNCTION) for family in FUNCTIONS),
        *(
            _plain_row(known, f"{name}, {what}", kind, name, counts, means)
            for name in dict.fromkeys(row.name for row in rows if row.kind == OPTIMIZER[0][1])
            for what, kind, means in OPTIMIZER
        ),
        *(_plain_row(known, what, kind, "", counts, means) for what, kind, means in LINKS),
    ]
    return [head, *(row for row in body if row)]


def _product_row(known: Ceilings, kind: str, name: str, counts: list[int]) -> list[str]:
    """The fastest size, and what the others reach."""
    tried = [row for row in known.rows if (row.kind, row.name) == (kind, name)]
    if not tried:
        return []
    what = f"products n × n, {name}" if kind == "square" else f"products {SKINNY_ROWS} × n by n × n, {name}"
    cells, means = [], ""
    for threads in counts:
        found = known.find(kind, name, threads)
        best = max(found, key=lambda row: row.value or 0.0, default=None)
        cells += _figure(best)
        by_size = " / ".join(f"{row.value:.3g}" for row in found if row.size in SHOWN)
        sizes = " / ".join(str(row.size) for row in found if row.size in SHOWN)
        where = f" ({cores(threads)})" if len(counts) > 1 else ""
        means = f"the fastest n; n = {sizes}: {by_size}{where}" if best else tried[0].why
        for remark in dict.fromkeys(row.why for row in found if row.why):
            means += f"; {remark}: n = {', '.join(str(row.size) for row in found if row.why == remark)}"
    return [what, *cells, means]


def _sizes_row(known: Ceilings, what: str, kind: str, name: str, counts: list[int], means: str) -> list[str]:
    tried = [row for row in known.rows if (row.kind, row.name) == (kind, name)]
    if not tried:
        return []
    cells, said = list[str](), next((row.why for row in tried if row.why), means)
    for threads in counts:
        found = known.find(kind, name, threads)
        cells += _figure(max(found, key=lambda row: row.value or 0.0, default=None))
        if found:
            said = f"{means}: {', '.join(f'{row.value:.3g} at {row.size:,}' for row in found)} ({cores(threads)})"
    return [what, *cells, said]


def _plain_row(known: Ceilings, what: str, kind: str, name: str, counts: list[int], means: str) -> list[str]:
    tried = [row for row in known.rows if (row.kind, row.name) == (kind, name)]
    if not tried:
        return []
    found = {row.threads: row for row in tried}
    why = next((row.why for row in tried if row.why), "")
    is_known = any(row.value is not None for row in tried)
    said = why if not is_known else f"{means} ({why})" if why else means
    return [what, *(cell for threads in counts for cell in _figure(found.get(threads))), said]


def _figure(row: Ceiling | None) -> list[str]:
    """Value and quartiles, in a unit in which they are read easily."""
    if row is None or row.value is None or row.low is None or row.high is None:
        return ["", ""]
    factor, unit = _unit(row)
    spread = f"{row.low * factor:.3g} – {row.high * factor:.3g}" if row.samples > 1 else ""
    return [f"{row.value * factor:.3g} {unit}", spread]


def _unit(row: Ceiling) -> tuple[float, str]:
    if row.kind in RATES:
        return 1.0, "GFLOP/s"
    if row.kind in BANDWIDTHS:
        return 1.0, "GB/s"
    return (1e3, "ms") if (row.value or 0.0) >= 1e-3 else (1e6, "µs")


# The layers.


def layers_table(step: Step, rows: Collection[Ceiling]) -> Table:
    """What each layer computes and moves in a step, and what its forward pass reached of what could be."""
    known = of(rows)
    head = [
        "layer",
        "kind",
        "parameters",
        "MFLOP forward",
        "backward",
        "kB moved",
        "FLOP/byte",
        "GFLOP/s",
        "of the roof",
    ]
    cells = [head, *(_layer_cells(layer, step, known) for layer in step.layers)]
    for what, work in (("(loss)", step.loss), ("(optimizer)", step.optimizer)):
        cells.append([what, "", "", "", "", f"{work.bytes / 1e3:,.1f}", "", "", ""])
    whole = step.whole
    notes = [
        f"a step of {step.rows} rows: {whole.operations / 1e6:,.2f} MFLOP, {whole.bytes / 1e6:,.2f} MB read and "
        f"written, {whole.operators:,} operators and {whole.views:,} views; {step.parameters:,} parameters in "
        f"{step.tensors} tensors",
        f"FLOP are those of products and convolutions; GFLOP/s forward, on {cores(step.threads)}; the roof is "
        "the lower of the products' fastest and FLOP/byte × the bandwidth at so many bytes",
    ]
    return Table(cells, notes)


def _layer_cells(layer: Layer, step: Step, known: Ceilings) -> list[str]:
    forward, backward, intensity = layer.forward, layer.backward, layer.forward.intensity
    moved = f"{(forward.bytes + backward.bytes) / 1e3:,.1f}"
    begin = [layer.name or "model", layer.kind, f"{layer.parameters:,}"]
    if intensity is None:
        return [*begin, "", "", moved, "", "", ""]
    work = [f"{forward.operations / 1e6:,.3g}", f"{backward.operations / 1e6:,.3g}", moved, f"{intensity:.3g}"]
    if not layer.seconds:
        return [*begin, *work, "", ""]
    rate = forward.operations / statistics.median(layer.seconds) / 1e9
    roof = attainable(known, step, forward)
    return [*begin, *work, f"{rate:.3g}", percent(rate / roof) if roof else ""]


def attainable(known: Ceilings, step: Step, work: Work) -> float | None:
    """GFLOP/s that so much work can reach, its bytes being read as fast as so many can be; None while unknown."""
    precision = BF16 if step.precision == "bfloat16" else FLOAT32
    peak, bandwidth = known.peak(precision, step.threads), known.bandwidth(work.product_bytes, step.threads)
    return min(peak, bandwidth.value * work.intensity) if peak and bandwidth and work.intensity else None
