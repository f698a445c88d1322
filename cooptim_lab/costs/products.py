"""Which matrix products an operator of torch computes: m, k, n and how many, from the shapes that it is called with.

Beside what `torch.utils.flop_counter` counts, what it counts as nothing on a CPU or counts wrong: attention
(`_scaled_dot_product_flash_attention_for_cpu`), the fast paths of evaluation (`_native_multi_head_attention`,
`_transformer_encoder_layer_fwd`), LSTM (`mkldnn_rnn_layer`), products with a vector, and the backward of convolutions
with groups, whose weights' gradient it counts once too often for each group. Forward and backward of a convolution, and
of an LSTM, are as many operations for each gradient as the forward has.

A formula is called with the operator's own arguments and `out`, its result; shapes are all it looks at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch

from .work import Product

aten = torch.ops.aten
Formula = Callable[..., list[Product]]
FORMULAS: dict[Any, Formula] = {}
"""By operator (an `OpOverloadPacket`)."""


def _of(*names: str) -> Callable[[Formula], Formula]:
    """The formula of these operators, as far as this torch has them."""

    def enter(formula: Formula) -> Formula:
        FORMULAS.update({getattr(aten, name): formula for name in names if hasattr(aten, name)})
        return formula

    return enter


@_of("mm", "bmm")
def _product(a: Any, b: Any, *_: Any, out: Any, **__: Any) -> list[Product]:
    *batch, m, k = a.shape
    return [Product(m, k, b.shape[-1], prod(batch))]


@_of("addmm", "baddbmm", "addbmm", "_addmm_activation")
def _added(to: Any, a: Any, b: Any, *_: Any, out: Any, **__: Any) -> list[Product]:
    return _product(a, b, out=out)


@_of("mv")
def _with_vector(a: Any, v: Any, *_: Any, out: Any, **__: Any) -> list[Product]:
    m, k = a.shape
    return [Product(m, k, 1)]


@_of("addmv")
def _added_vector(to: Any, a: Any, v: Any, *_: Any, out: Any, **__: Any) -> list[Product]:
    return _with_vector(a, v, out=out)


@_of("dot", "vdot")
def _dot(a: Any, b: Any, *_: Any, out: Any, **__: Any) -> list[Product]:
    return [Product(1, a.shape[0], 1)]


def _convolved(x: Any, weight: Any, y: Any, is_transposed: bool, groups: int) -> Product:
    """Of a convolution with result y: at each place, of the output (transposed: of the input), kernel by channels.

    A weight has shape (channels out, channels in / groups, *kernel); transposed (channels in, channels out / groups,
    *kernel).
    """
    first, second, *kernel = weight.shape
    places = (x if is_transposed else y).shape
    m = places[0] * prod(places[2:])
    if is_transposed:
        return Product(m, first // groups, second * prod(kernel), groups)
    return Product(m, second * prod(kernel), first // groups, groups)


@_of("convolution", "_convolution", "convolution_overrideable", "_slow_conv2d_forward")
def _convolution(
    x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, more: Any, groups: int,
    *_: Any, out: Any, **__: Any,
) -> list[Product]:  # fmt: skip
    return [_convolved(x, weight, out, transposed, groups)]


@_of("mkldnn_convolution")
def _mkldnn_convolution(
    x: Any, weight: Any, bias: Any, padding: Any, stride: Any, dilation: Any, groups: int, *_: Any, out: Any, **__: Any
) -> list[Product]:
    return [_convolved(x, weight, out, False, groups)]


@_of("convolution_backward")
def _convolution_backward(
    grad: Any, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, more: Any,
    groups: int, wanted: Sequence[bool], *_: Any, out: Any, **__: Any,
) -> list[Product]:  # fmt: skip
    """The gradients of the input and of the weight: each multiplies what the forward does, in another order."""
    one = _convolved(x, weight, grad, transposed, groups)
    into = Product(one.m, one.n, one.k, groups)
    of_weight = Product(one.k, one.m, one.n, groups)
    return [product for product, is_wanted in ((into, wanted[0]), (of_weight, wanted[1])) if is_wanted]


@_of("_scaled_dot_product_flash_attention_for_cpu")
def _attention(query: Any, key: Any, value: Any, *_: Any, out: Any, **__: Any) -> list[Product]:
    """Scores and their product with the values, for each head; of a causal one too: blocks above the diagonal count."""
    *heads, length, width = query.shape
    others = key.shape[-2]
    times = prod(heads)
    return [Product(length, width, others, times), Product(length, others, value.shape[-1], times)]


@_of("_scaled_dot_product_flash_attention_for_cpu_backward")
def _attention_backward(grad: Any, query: Any, key: Any, value: Any, *_: Any, out: Any, **__: Any) -> list[Product]:
    """The scores once more, then the gradients of scores, values, queries and keys."""
    *heads, length, width = query.shape
    others, of_value = key.shape[-2], value.shape[-1]
    times = prod(heads)
    return [
        Product(length, width, others, times),
        Product(length, of_value, others, times),
        Product(others, length, of_value, times),
        Product(length, others, width, times),
        Product(others, length, width, times),
    ]


def _lengths(x: Any) -> list[int]:
    """Of each sequence of a batch, how many tokens; a nested tensor has as many as each has."""
    if x.is_nested:
        return [int(length) for length in x._nested_tensor_size()[:, 0]]
    return [x.shape[1]] * x.shape[0]


def _self_attention(lengths: list[int], width: int, heads: int) -> list[Product]:
    """Queries, keys and values in one product, the heads, and what joins them."""
    tokens = sum(lengths)
    per_head = [Product(n, width // heads, n, heads) for n in lengths]
    after = [Product(n, n, width // heads, heads) for n in lengths]
    return [Product(tokens, width, 3 * width), *_merged(per_head), *_merged(after), Product(tokens, width, width)]


def _merged(products: list[Product]) -> list[Product]:
    """Those that are alike as one."""
    counts: dict[tuple[int, int, int], int] = {}
    for one in products:
        counts[one.m, one.k, one.n] = counts.get((one.m, one.k, one.n), 0) + one.times
    return [Product(*sides, times) for sides, times in counts.items()]


@_of("_native_multi_head_attention")
def _fast_attention(
    query: Any, key: Any, value: Any, width: int, heads: int, *_: Any, out: Any, **__: Any
) -> list[Product]:
    """Of a sequence with itself: `nn.MultiheadAttention` takes this path for no other."""
    return _self_attention(_lengths(query), width, heads)


@_of("_transformer_encoder_layer_fwd")
def _fast_encoder(
    x: Any, width: int, heads: int, qkv: Any, qkv_bias: Any, joins: Any, joins_bias: Any, gelu: Any, first: Any,
    eps: Any, norm_1: Any, norm_1_bias: Any, norm_2: Any, norm_2_bias: Any, up: Any, *_: Any, out: Any, **__: Any,
) -> list[Product]:  # fmt: skip
    """Attention, then the two layers of the perceptron, whose first weight has shape (inner width, width)."""
    lengths = _lengths(x)
    inner, tokens = up.shape[0], sum(lengths)
    return [*_self_attention(lengths, width, heads), Product(tokens, width, inner), Product(tokens, inner, width)]


def _recurrent(x: Any, w: Any, u: Any) -> list[Product]:
    """One layer, one direction: x of shape (steps, rows, inputs), w (4 h, inputs), u (4 h, h).

    The inputs of all steps are one product, the states one for each step.
    """
    steps, rows, inputs = x.shape
    return [Product(steps * rows, inputs, w.shape[0]), Product(rows, u.shape[1], u.shape[0], steps)]


@_of("mkldnn_rnn_layer")
def _lstm(x: Any, w: Any, u: Any, *_: Any, out: Any, **__: Any) -> list[Product]:
    return _recurrent(x, w, u)


@_of("mkldnn_rnn_layer_backward")
def _lstm_backward(x: Any, w: Any, u: Any, *_: Any, out: Any, **__: Any) -> list[Product]:
    """Each product twice: for its inputs (also the first layer's, which nobody asks for) and for its weights."""
    return [
        product
        for one in _recurrent(x, w, u)
        for product in (Product(one.m, one.n, one.k, one.times), Product(one.n, one.m, one.k, one.times))
    ]
