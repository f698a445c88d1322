"""Do parts of a batch, weighed by what the loss was found to divide by, make the whole: also where rows are unusual?

`reduction` has asked a loss of the user's own about a few rows. What it divides by may show in others only: missing
values that are masked out, weights in y, a label that is rare, losses of 0 that do not count. So rows that are unlike
the others are looked for in y, and batches of some of them beside ordinary ones are cut into parts: the gradient of the
whole must be that of the parts. Which rows those are is decided here; who has them, and who joins them, is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ...data.values import spread
from ...errors import InputError
from ..reduction import MEAN, SUM, Reduction
from ..scoring import SURE, Loss

LOOKED = 1 << 20
"""Numbers of y that are looked at; of more, those of rows that lie evenly among all."""
FEW, ORDINARY = 4, 16
"""Rows of each end of what sets rows apart, and rows as they come."""
COLUMNS = 4
"""Of y, from the first and from the last, that are looked at by themselves."""
TOLERANCE, FLOOR = {True: 1e-3, False: 1e-2}, {True: 1e-6, False: 1e-2}
"""What may be another of a row's gradient, and of the largest where a row's is smaller than that; in float64 or not."""

Kind = tuple[str, Tensor]


def looked_at(rows: int, numbers: int) -> Tensor:
    """Which of so many rows, of so many numbers of y each, to look for unusual ones among; ascending, int64."""
    most = max(2, LOOKED // max(1, numbers))
    return torch.arange(rows) if rows <= most else torch.from_numpy(spread(rows, most)).sort().values


def unusual(y: Tensor, most: int) -> Tensor:
    """Of rows y (rows, ...), `most` at the most: some that are unlike the others, of each kind, and ordinary ones."""
    kinds = [rows.tolist() for _, rows in _kinds(y)]
    in_turn = [rows[place] for place in range(FEW) for rows in kinds if place < len(rows)]
    ordinary = spread(len(y), ORDINARY).tolist()
    least = min(len(ordinary), most // 3)
    return torch.tensor(list(dict.fromkeys([*ordinary[:least], *in_turn, *ordinary]))[:most])


def see_parts(reduction: Reduction, loss: Loss, outputs: Tensor, y: Tensor) -> None:
    """See that the gradient of a batch of rows (outputs, y) is that of its parts, weighed by a reduction.

    Raises
    ------
    InputError
        Which rows show that it is not, and what to do.
    """
    for what, parts in _batches(y):
        rows = torch.cat(parts)
        for varied in (_as_they_are, _far_apart):
            share = _apart(reduction, loss, varied(outputs[rows], y[rows]), y[rows], [len(part) for part in parts])
            if share > 0:
                by = {MEAN: "their rows", SUM: "nothing"}.get(reduction.kind, "their labels")
                raise InputError(
                    f"the gradient of loss is not that of its parts weighed by {by} (of {len(rows)} rows, {what}, "
                    f"another by {min(share, 1):.0%}): ranks see parts, and would train another network; divide by the "
                    "number of rows, whatever is left out or weighed, or train sub-networks, or with one worker"
                )


def _batches(y: Tensor) -> Iterator[tuple[str, list[Tensor]]]:
    """What sets some rows apart, and a batch in parts: those rows, and others as they come."""
    ordinary = torch.from_numpy(spread(len(y), ORDINARY))
    for what, rows in [*_kinds(y), ("of all kinds", ordinary[: len(ordinary) // 3])]:
        others = ordinary[~torch.isin(ordinary, rows)]
        parts = [rows, others[: len(others) // 2], others[len(others) // 2 :]]
        if len(others):
            yield what, [part for part in parts if len(part)]


def _kinds(y: Tensor) -> list[Kind]:
    """Rows that are unlike the others, the most first, and in what."""
    flat = y.reshape(len(y), -1)
    if not flat.shape[1]:
        return []
    values, counts = flat.unique(return_counts=True)
    common = values[counts.argmax()]
    kinds: list[Kind] = []
    if flat.is_floating_point():
        known = flat.isfinite()
        _add(kinds, "some with the most missing values in y", "some with the fewest", (~known).sum(1))
        low, high = (torch.where(known, flat, end) for end in (torch.inf, -torch.inf))
        wide = torch.where(known, flat, 0)
    else:
        wide = low = high = flat
        rarity = -counts[torch.searchsorted(values, flat)].amin(1)
        _add(kinds, "some with the rarest labels", "some with the most frequent labels", rarity)
    _add(kinds, "some with the largest y", "some with the smallest y", high.amax(1))
    _add(kinds, "some with the largest y", "some with the smallest y", low.amin(1))
    if counts.max() > 1:
        of = f"{common.item():g}"
        _add(kinds, f"some with the most {of} in y", f"some with the fewest {of} in y", (flat == common).sum(1))
    last = flat.shape[1]
    for column in sorted({*range(min(COLUMNS, last)), *range(max(0, last - COLUMNS), last)}) if last > 1 else ():
        of = f"y[:, {column}]" if y.dim() == 2 else "some numbers of y"
        _add(kinds, f"some with the largest {of}", f"some with the smallest {of}", wide[:, column])
    return kinds


def _add(kinds: list[Kind], most: str, least: str, values: Tensor) -> None:
    """Rows at both ends of some values, (rows,), where they differ."""
    if len(values) > 1 and bool((values != values[0]).any()):
        few = min(FEW, len(values) // 2)
        kinds += [(most, values.topk(few).indices), (least, values.topk(few, largest=False).indices)]


def _as_they_are(outputs: Tensor, y: Tensor) -> Tensor:
    """Made to differ, towards zero: valid wherever they were."""
    return outputs * _by_row(torch.linspace(0.4, 1, len(outputs), dtype=outputs.dtype), outputs)


def _far_apart(outputs: Tensor, y: Tensor) -> Tensor:
    """As a network may give them later: sure, of every other row rightly where y is classes, so that some losses are 0.

    A loss may refuse them, or have no value for them: they need not be what it is made for.
    """
    made = SURE * torch.arange(1, outputs.numel() + 1, dtype=outputs.dtype).cos().view_as(outputs)
    if outputs.dim() == 2 and y.dim() == 1 and not y.is_floating_point():
        sure = torch.arange(len(y))[::2]
        labels = y[sure].clamp(0, outputs.shape[1] - 1)
        made[sure, labels] = 4 * SURE
    return made


def _by_row(values: Tensor, outputs: Tensor) -> Tensor:
    return values.view(-1, *[1] * (outputs.dim() - 1))


def _apart(reduction: Reduction, loss: Loss, outputs: Tensor, y: Tensor, sizes: Sequence[int]) -> float:
    """By how much of a row's gradient that of a batch is not that of its parts; 0 where that is rounding, or not known.

    Where the whole has no value, or its parts are refused, nothing is known: training will say so itself.
    """
    try:  # in float64, which tells rounding from what is another; a loss may hold some in float32
        wide = outputs.double(), y.double() if y.is_floating_point() else y
        whole, (outputs, y), is_wide = _gradient(loss, *wide), wide, True
    except Exception:  # noqa: BLE001 - then as they are
        is_wide = False
    try:
        if not is_wide:
            whole = _gradient(loss, outputs, y)
        found = [_gradient(loss, *pair) for pair in zip(outputs.split(sizes), y.split(sizes), strict=True)]
        again = _gradient(loss, outputs, y)
    except Exception:  # noqa: BLE001
        return 0.0
    weights = [reduction.weight(part) for part in y.split(sizes)]
    total = 1.0 if reduction.kind == SUM else sum(weights)
    if not bool(whole.isfinite().all()) or not total:
        return 0.0
    counted = [part * (w / total) if w else torch.zeros_like(part) for part, w in zip(found, weights, strict=True)]
    joined = torch.cat(counted)
    if not bool(joined.isfinite().all()):
        return 1.0
    return 0.0 if _differ(again, whole, is_wide) else _differ(joined, whole, is_wide)


def _differ(one: Tensor, other: Tensor, is_wide: bool) -> float:
    """The largest difference of a row, (rows, numbers), of what the row has; 0 where it may be rounding."""
    most = torch.maximum(one.abs(), other.abs()).amax(1)
    scale = most.clamp(min=FLOOR[is_wide] * float(most.max()))
    share = float(((one - other).abs().amax(1) / scale).nan_to_num(0.0).max())
    return share if share > TOLERANCE[is_wide] else 0.0


def _gradient(loss: Loss, outputs: Tensor, y: Tensor) -> Tensor:
    """By the outputs, (rows, numbers); NaN where the loss has no value."""
    given = outputs.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = loss(given + 0, y.clone())  # it may write into both
        found = torch.autograd.grad(value, given, allow_unused=True)[0] if value.requires_grad else None
    gradient = torch.zeros_like(outputs) if found is None else found
    return (gradient if bool(value.isfinite()) else torch.full_like(gradient, torch.nan)).reshape(len(outputs), -1)
