"""What one call of an operator takes, from a machine's ceilings: rates of products by shape, of bytes by kind.

What is asked beyond what was measured is answered with the nearest figure, and remembered in `beyond`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from ..costs import families
from ..costs.work import Call, Product, Work
from ..errors import InputError
from ..hardware.ceilings import FLOAT32, SKINNY_ROWS, THIN_ROWS, Ceilings, Found, between

REDUCING = frozenset(("sum", "mean", "amax", "nll_loss_forward", "embedding_dense_backward", "nll_loss_backward"))
"""Operators that write much less than they read, or what they write is looked at by rows only."""
USUAL = 2 << 20
"""Bytes of a call up to which memory is as it was measured for rates of layers."""
GIGA = 1e9
TIP = "measure anew: %cooptim hardware --measure"


class Prices:
    """Of one process with so many threads, and a batch of so many rows.

    Raises
    ------
    InputError
        When nothing was measured with so many threads, or no product of this precision.
    """

    def __init__(self, ceilings: Ceilings, threads: int, precision: str, rows: int = 1) -> None:
        self.ceilings, self.threads, self.precision, self.rows = ceilings, threads, precision, rows
        self.beyond: list[str] = []
        measured = sorted({row.threads for row in ceilings.rows if row.kind == "square"})
        if threads not in measured:
            raise InputError(f"{threads} threads were not measured: choose from {', '.join(map(str, measured))}")
        if not ceilings.find("square", precision, threads):
            raise InputError(f"no product in {precision} was measured with {threads} threads: {TIP}")
        self._alone = ceilings.one("operator", "", threads) or 0.0
        self._view = ceilings.one("view, trained", "", threads) or 0.0
        self._operator = self._needed("operator, trained")

    def _needed(self, kind: str) -> float:
        value = self.ceilings.one(kind, "", self.threads)
        if value is None:
            raise InputError(f"the cost of an {kind} was not measured with {self.threads} threads: {TIP}")
        return value

    def work(self, work: Work) -> tuple[float, float, float]:
        """Seconds of products, bytes and dispatch."""
        dispatch = work.operators * self._operator + work.views * self._view
        if work.calls:
            costs = [(call.times, *self._call(call)) for call in work.calls]
            return sum(n * a for n, a, _ in costs), sum(n * b for n, _, b in costs), dispatch
        products = sum(self._product(each) for each in work.products)
        return products, self._moved(work.bytes - work.product_bytes), dispatch

    def root(self, loss: Work) -> float:
        """Seconds that a smallest loss takes beside its operators: the way into the backward pass."""
        whole = self.ceilings.one("loss", "", self.threads)
        return 0.0 if whole is None else max(0.0, whole - self.work(loss)[2])

    def _call(self, call: Call) -> tuple[float, float]:
        """Seconds of its products, and of its bytes."""
        name = call.operator
        if name in families.CONVOLUTIONS:
            return self._all(call, lambda one: self._convolution(one, families.FORWARD)), self._fresh_beside(call)
        if name in families.CONVOLUTIONS_BACK:
            *into, weight = call.products
            return (
                sum(self._convolution(one, families.INPUT) for one in into)
                + self._convolution(weight, families.WEIGHT),
                self._fresh_beside(call),
            )
        if name in families.CELLS:
            return self._named(call, "cells", self._width_of_cells(call)), 0.0
        if name in families.ATTENTION:
            return self._named(call, "attention", min(call.products[0].k, call.products[0].m)), 0.0
        if name in families.BATCHED:
            return self._all(call, self._batched), self._fresh_beside(call)
        if call.products:
            return self._all(call, self._product), self._fresh_beside(call)
        if call.operations:
            self.beyond.append(f"{name} multiplies, and its sides are not known: as a product of its operations")
            side = (call.operations / 2) ** (1 / 3)
            return self._at(self.ceilings.rate(side, self.precision, self.threads), call.operations), 0.0
        return 0.0, self._bytes(call)

    def _all(self, call: Call, seconds: Callable[[Product], float]) -> float:
        return sum(map(seconds, call.products))

    def _at(self, found: Found | None, amount: float) -> float:
        """Seconds of so many operations or bytes at a rate in 10⁹ a second."""
        if found is None or not found.value:
            return 0.0
        if found.beyond:
            self.beyond.append(found.beyond)
        return amount / found.value / GIGA

    # Products.

    def product_rate(self, m: int, k: int, n: int) -> Found | None:
        """GFLOP/s of m × k by k × n.

        Its least side tells of which kind it is, thin, skinny or square, or what lies between them, log-log; its two
        longer sides how large it is.
        """
        least = min(m, k, n)
        side = math.sqrt(m * k * n / least)
        squares = self.ceilings.find("square", self.precision, self.threads)
        kind = "outer" if k == least and k < min(m, n) else "skinny"
        skinny = self.ceilings.find(kind, self.precision, self.threads) or self.ceilings.find(
            "skinny", self.precision, self.threads
        )
        thin = self.ceilings.find("thin", self.precision, self.threads)
        square = between(squares, side, "n")
        levels: list[tuple[float, Found]] = []
        if thin and (found := between(thin, side, "n")) is not None:
            levels.append((THIN_ROWS, found))
        if skinny and side > SKINNY_ROWS and (found := between(skinny, side, "n")) is not None:
            levels.append((SKINNY_ROWS, found))
        if square is not None:
            levels.append((max(side, levels[-1][0] * 1.001 if levels else 1.0), square))
        return between_levels(levels, least)

    def _product(self, one: Product) -> float:
        """Seconds, without what any small operator takes."""
        seconds = self._at(self.product_rate(one.m, one.k, one.n), 2.0 * one.m * one.k * one.n) - self._alone
        return max(0.0, seconds) * one.times

    def _batched(self, one: Product) -> float:
        if one.times == 1:
            return self._product(one)
        side = (one.m * one.k * one.n) ** (1 / 3)
        points = self.ceilings.find("batched", self.precision, self.threads)
        points = points or self.ceilings.find("batched", FLOAT32, self.threads)
        if not points or side > points[-1].size:
            return self._product(one)
        return self._at(between(points, side, "n of a batched product"), one.operations)

    def _convolution(self, one: Product, what: str) -> float:
        """By channels, and by the side of its pictures: between the two sides that were measured, log-log."""
        m, k, n = (one.k, one.m, one.n) if what == families.WEIGHT else (one.m, one.k, one.n)
        if what == families.INPUT:
            k, n = n, k
        is_first = what != families.INPUT and k <= 9 * (2 * families.FIRST_CHANNELS - 1)
        channels = n if is_first else math.sqrt(k * n / 9)
        small, large = families.SIDES
        share = math.log(max(1.0, m / self.rows) / small**2) / math.log(large**2 / small**2)
        share = min(1.0, max(0.0, share))
        logs = 0.0
        for side, weight in ((small, 1 - share), (large, share)):
            points = self.ceilings.find("convolution", families.convolving(what, side, is_first), self.threads)
            found = between(points, channels, "channels of a convolution")
            if found is None:
                self.beyond.append("no convolution was measured: as a product of matrices")
                return self._product(Product(m, k, n, one.times))
            if found.beyond and weight:
                self.beyond.append(found.beyond)
            logs += weight * math.log(one.operations / found.value / GIGA)
        return math.exp(logs)

    def _width_of_cells(self, call: Call) -> float:
        """Between inputs and states, whose products with the weights (4 h of the other side) are first and last.

        Backward each is there twice: for its inputs, then for its weights.
        """
        back = call.operator.endswith("backward")
        first, last = call.products[0], call.products[-2 if back else -1]
        return math.sqrt(min(first.k, first.n) * min(last.k, last.n))

    def _named(self, call: Call, kind: str, size: float) -> float:
        points = self.ceilings.find(kind, FLOAT32, self.threads)
        if not points:
            self.beyond.append(f"{call.operator} was not measured: as products of matrices")
            return self._all(call, self._product)
        return self._at(between(points, size, f"width of {kind}"), call.operations)

    # Bytes.

    def _bytes(self, call: Call) -> float:
        family = families.FAMILY.get(call.operator)
        if family is not None:
            rate = self.ceilings.one("function", family, self.threads)
            if rate:
                return call.bytes / rate / GIGA + self._extra(call.bytes)
            self.beyond.append(f"{family} was not measured: by its bytes")
        if call.operator in REDUCING or call.operator.endswith("_"):
            return self._moved(call.bytes)
        return self._fresh(call.bytes)

    def _moved(self, moved: float) -> float:
        return self._at(self.ceilings.bandwidth(moved, self.threads), moved) if moved else 0.0

    def _fresh(self, moved: float) -> float:
        """What is written into memory that was free before."""
        points = self.ceilings.find("fresh", "", self.threads)
        found = between(points, moved, "bytes")
        return self._moved(moved) if found is None else moved / found.value / GIGA

    def _extra(self, moved: float) -> float:
        """What memory that was free before takes more than it does for few bytes."""
        if moved <= USUAL:
            return 0.0
        return max(0.0, self._fresh(moved) - moved / USUAL * self._fresh(USUAL))

    def _fresh_beside(self, call: Call) -> float:
        """The same of a product's result."""
        results = 2 * 4 * sum(one.m * one.n * one.times for one in call.products)
        return self._extra(min(results, call.bytes))


def between_levels(levels: list[tuple[float, Found]], least: float) -> Found | None:
    """The rate of a product whose least side is so long, log-log between those of which it was measured."""
    if not levels:
        return None
    if least <= levels[0][0]:
        return levels[0][1]
    for (low, under), (high, over) in pairwise(levels):
        if least <= high:
            share = math.log(least / low) / math.log(high / low)
            value = math.exp((1 - share) * math.log(under.value) + share * math.log(over.value))
            return Found(value, (over.beyond if share > 0 else "") or (under.beyond if share < 1 else ""))
    return levels[-1][1]
