"""A divisor of a loss that shows in rare rows only is seen before the clock; a loss that divides by its rows passes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from cooptim_lab.preparing.examination import parts
from cooptim_lab.preparing.examination.parts import looked_at, see_parts, unusual
from cooptim_lab.preparing.reduction import MOST_ROWS, find_reduction
from tests.support import refused

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS, MOST = 2000, 48
random = torch.Generator().manual_seed(0)
NUMBERS = torch.randn(ROWS, 3, generator=random)
CLASSES = torch.randint(0, 5, (ROWS,), generator=random)
BINARY = CLASSES.clamp(max=1)
RARE = torch.arange(900, 910)
"""Rows that are unlike the others."""


def where_rare(usual, unusual):
    y = usual.clone()
    y[RARE] = unusual
    return y


MISSING = where_rare(NUMBERS, torch.nan)
WEIGHED = torch.stack([NUMBERS[:, 0], where_rare(torch.ones(ROWS), 7.0)], 1)
MARKED = where_rare(NUMBERS, -1.0)
POSITIVE = where_rare(torch.zeros(ROWS, dtype=torch.int64), 1)
TOKENS = where_rare(torch.randint(1, 9, (ROWS, 4), generator=random), torch.tensor([3, 0, 0, 0]))


def masked(o, y):
    known = ~y.isnan()
    return (o[known] - y[known]).square().mean()


def marked(o, y):
    counts = y != -1
    return ((o - y).square() * counts).sum() / counts.sum()


def weighed(o, y):
    return (y[:, 1] * (o[:, 0] - y[:, 0]).square()).sum() / y[:, 1].sum()


def by_positives(o, y):
    return F.binary_cross_entropy_with_logits(o[:, 0], y.float(), reduction="sum") / y.sum().clamp(min=1)


def above_zero(o, y):
    each = F.multi_margin_loss(o, y, reduction="none")
    return each.sum() / (each > 0).sum().clamp(min=1)


def hard_ones(o, y):
    each = F.cross_entropy(o, y, reduction="none")
    return (each * (each > 0.01)).sum() / (each > 0.01).sum().clamp(min=1)


def focal(o, y):
    each = F.cross_entropy(o, y, reduction="none")
    return ((1 - (-each).exp()) ** 2 * each).mean()


def writing(o, y):
    """It fills what is missing, in place."""
    y[y.isnan()] = 0
    return (o - y).square().mean()


WRONG = {
    "missing values": (masked, 3, MISSING, "some with the most missing values in y"),
    "a value that marks": (marked, 3, MARKED, "another by"),
    "weights in y": (weighed, 1, WEIGHED, "some with the largest y"),
    "by a rare label": (by_positives, 1, POSITIVE, "some with the rarest labels"),
    "losses above 0": (above_zero, 5, CLASSES, "another by"),
    "hard rows": (hard_ones, 5, CLASSES, "another by"),
}
RIGHT = {
    "classes": (F.cross_entropy, 5, CLASSES),
    "class weights": (lambda o, y: F.cross_entropy(o, y, weight=torch.arange(1, 6).to(o)), 5, CLASSES),
    "class weights in float32": (lambda o, y: F.cross_entropy(o, y, weight=torch.arange(1, 6).float() / 7), 5, CLASSES),
    "label smoothing": (lambda o, y: F.cross_entropy(o, y, label_smoothing=0.1), 5, CLASSES),
    "a label that is ignored": (lambda o, y: F.cross_entropy(o, y, ignore_index=1), 2, POSITIVE),
    "tokens, padded": (lambda o, y: F.cross_entropy(o.view(-1, 4, 9).transpose(1, 2), y, ignore_index=0), 36, TOKENS),
    "a sum": (lambda o, y: F.cross_entropy(o, y, reduction="sum"), 5, CLASSES),
    "missing values, by rows": (lambda o, y: torch.where(y.isnan(), 0, o - y).square().mean(), 3, MISSING),
    "missing values, filled": (writing, 3, MISSING),
    "weights in y, by rows": (lambda o, y: (y[:, 1] * (o[:, 0] - y[:, 0]).square()).mean(), 1, WEIGHED),
    "focal": (focal, 5, CLASSES),
    "margins": (F.multi_margin_loss, 5, CLASSES),
    "probabilities": (lambda o, y: F.binary_cross_entropy(o[:, 0].sigmoid(), y.to(o)), 1, BINARY),
    "counts": (lambda o, y: F.poisson_nll_loss(o[:, 0], y.to(o)), 1, BINARY),
    "outliers": (F.huber_loss, 3, where_rare(NUMBERS, 1e6)),
}


def outputs_of(width):
    return torch.randn(ROWS, width, generator=torch.Generator().manual_seed(1)) / 4


def found(loss, width, y):
    outputs = outputs_of(width)
    return outputs, find_reduction(loss, outputs[:64], y[:64], y.flatten().unique())


@pytest.mark.parametrize(("loss", "width", "y", "said"), WRONG.values(), ids=WRONG)
def test_a_divisor_that_rare_rows_show_is_refused(loss, width, y, said):
    outputs, reduction = found(loss, width, y)
    rows = unusual(y, MOST)
    assert len(rows) <= MOST
    with refused("the gradient of loss is not that of its parts", said, "divide by the number of rows"):
        see_parts(reduction, loss, outputs[rows], y[rows])


@pytest.mark.parametrize("name", ["missing values", "a value that marks", "weights in y", "by a rare label"])
def test_breakage_the_first_rows_do_not_show_it(name):
    loss, width, y, _ = WRONG[name]
    outputs, reduction = found(loss, width, y)
    see_parts(reduction, loss, outputs[:MOST_ROWS], y[:MOST_ROWS])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("loss", "width", "y"), RIGHT.values(), ids=RIGHT)
def test_a_loss_that_divides_by_what_was_found_passes(loss, width, y, dtype):
    outputs, reduction = found(loss, width, y)
    rows = unusual(y, MOST)
    before = y.clone()
    see_parts(reduction, loss, outputs[rows].to(dtype), y[rows].to(dtype) if y.is_floating_point() else y[rows])
    assert torch.equal(before.nan_to_num(), y.nan_to_num())  # whatever it writes into y


def test_outputs_that_a_loss_refuses_are_not_asked():
    """Probabilities: those of the network are valid, those that are tried beside need not be."""
    outputs = outputs_of(1).sigmoid()

    def loss(o, y):
        assert bool(((o >= 0) & (o <= 1)).all())
        return F.binary_cross_entropy(o[:, 0], y.to(o))

    see_parts(find_reduction(loss, outputs[:64], BINARY[:64], BINARY.unique()), loss, outputs[:MOST], BINARY[:MOST])


def test_a_part_that_alone_has_no_value_is_refused():
    """Its rows are all left out: a rank that sees no others would end."""
    outputs, reduction = found(masked, 3, MISSING)
    rows = torch.cat([torch.arange(8), RARE[:4]])
    assert not bool(masked(outputs[RARE], MISSING[RARE]).isfinite())
    with refused("another by 100%"):
        see_parts(reduction, masked, outputs[rows], MISSING[rows])


def test_of_many_rows_some_are_looked_at(monkeypatch):
    monkeypatch.setattr(parts, "LOOKED", 600)
    rows = looked_at(1000, 10)
    assert len(rows) <= 60
    assert bool((rows.diff() > 0).all())
    assert int(rows.diff().max()) < 50
    assert torch.equal(looked_at(60, 10), torch.arange(60))
