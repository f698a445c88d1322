"""The work of another batch than the one that was counted.

Every product of an ordinary network has the batch in one of its sides, or as many products as the batch has rows. Which
is told by what the rows divide: the number of products first (attention's heads), then the rows of the first factor,
then what is summed over (a weight's gradient), then the columns. Bytes of products are their sides', of all else they
grow with the rows. Where a layer is as wide as the batch is long the side may be the wrong one, with the
right operations.
"""

from __future__ import annotations

from dataclasses import replace

from ..costs.work import Call, Product, Work

BYTES = 4
"""Of a number that is counted."""


def rescaled(work: Work, rows: int, scale: float, narrow: float = 1.0) -> Work:
    """Work of `rows` rows as that of `scale` times as many, with `narrow` times the bytes of a number."""
    if scale == 1.0 and narrow == 1.0:
        return work
    calls = tuple(_call(call, rows, scale, narrow) for call in work.calls)
    return replace(
        work,
        operations=round(work.operations * scale),
        bytes=round(work.bytes * scale * narrow),
        products=tuple(product_of(each, rows, scale) for each in work.products),
        product_bytes=round(work.product_bytes * scale * narrow),
        calls=calls,
    )


def _call(call: Call, rows: int, scale: float, narrow: float) -> Call:
    products = tuple(product_of(each, rows, scale) for each in call.products)
    grown = call.bytes * scale
    if len(products) == 1 and call.bytes:  # what does not grow with the rows is the weight
        before, after = (sum(map(numbers, each)) for each in (call.products, products))
        grown = max(0.0, call.bytes + BYTES * (after - before))
        grown = min(grown, max(1.0, scale) * call.bytes)  # a convolution reads a number several times, and has it once
    return replace(call, bytes=round(grown * narrow), products=products, operations=round(call.operations * scale))


def numbers(product: Product) -> int:
    """Of its three matrices."""
    return product.times * (product.m * product.k + product.k * product.n + product.m * product.n)


def product_of(product: Product, rows: int, scale: float) -> Product:
    """The same of `scale` times as many rows."""
    for side in ("times", "m", "k", "n"):
        length = getattr(product, side)
        if length % rows == 0 and not (side == "times" and rows == 1 and length == 1):
            return replace(product, **{side: max(1, round(length * scale))})
    return product
