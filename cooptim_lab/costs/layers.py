"""Gauges of what a training's layers call, as far as neither products of matrices nor bytes tell what it takes.

Each is torch's own operator on numbers of a typical shape, one figure for each family (see `families`), forward and
backward where both are alike in cost. The sizes are such that the call itself is a small part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ..hardware.ceilings import FLOAT32, Ceiling
from ..hardware.readings import KIB, MIB
from .counting import Counter
from .families import (
    ATTENTION,
    BATCH_NORM,
    CELLS,
    FAMILY,
    FIRST_CHANNELS,
    FORWARD,
    GELU,
    INPUT,
    LAYER_NORM,
    POOL,
    RANDOM,
    SIDES,
    SOFTMAX,
    TANH,
    WEIGHT,
    convolving,
)  # fmt: skip
from .gauge import Action, Gauge, Refused
from .work import Call, total

functional = nn.functional
aten = torch.ops.aten
CHANNELS, OF_FIRST, PLACES = (4, 16, 48), (8, 32), 4096
"""Of convolutions of c channels to c, and of few to c: c, and numbers of a channel of all pictures."""
HEADS, BATCHES = 64, (8, 16, 32, 64)
"""Small products in a call, and their n."""
WIDTHS, STEPS, ROWS = (16, 48, 128), 16, 32
"""Of an LSTM: width of inputs and states, length and number of sequences."""
LENGTH, HEAD = 64, 16
"""Of attention: tokens of a sequence, width of a head."""
NUMBERS, ROW = 1 << 18, 64
"""That functions are applied to, in rows of so many."""
FRESH, KEPT = (64 * KIB, 512 * KIB, 4 * MIB, 16 * MIB, 34 * MIB), 2
"""Bytes of a result in memory of its own, and results that are kept together. The largest is one that the C library
gives back to the system when it is free, so that its pages are made anew each time: here at a tenth of the rate."""
FREED = 31 * MIB
"""After so many were freed at once, glibc keeps what is smaller (its threshold is dynamic, to 32 MiB). A training's
steps, once under way, were counted to make no pages anew either; this gauge, without it, waited for those of 4 MiB."""
FEW = 8
"""Rows and classes of the small loss, numbers of a small view."""
CHAIN = 20
"""Small views, one after the other."""


def layers(threads: int) -> Iterator[Gauge]:
    """All of them; the sizes of a kind in their order."""
    yield from convolutions(threads)
    yield from (batched(n, threads) for n in BATCHES)
    yield from (cells(width, threads) for width in WIDTHS)
    yield attention(threads)
    for family, (make, shape) in FUNCTIONS.items():
        yield function(family, make, shape, threads)
    yield random(threads)
    yield from (fresh(size, threads) for size in FRESH)
    yield loss(threads)
    yield views(threads)


def convolutions(threads: int) -> Iterator[Gauge]:
    """Of every kind, by its channels."""
    for side in SIDES:
        for what in (FORWARD, INPUT, WEIGHT):
            yield from (convolution(what, side, c, c, threads) for c in CHANNELS)
        for what in (FORWARD, WEIGHT):
            yield from (convolution(what, side, FIRST_CHANNELS, c, threads) for c in OF_FIRST)


def convolution(what: str, side: int, into: int, channels: int, threads: int) -> Gauge:
    """One of the three that a convolution's training computes."""
    images = PLACES // side**2
    is_first = into != channels

    def make() -> Action:
        x, y = (torch.randn(images, c, side, side) for c in (into, channels))
        w, pairs = torch.randn(channels, into, 3, 3), ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
        if what == FORWARD:
            return lambda: aten.convolution(x, w, None, *pairs)
        wanted = [what == INPUT, what == WEIGHT, False]
        return lambda: aten.convolution_backward(y, x, w, None, *pairs, wanted)

    about = Ceiling(kind="convolution", name=convolving(what, side, is_first), threads=threads, size=channels)
    return Gauge(about, make, 1e-9 * 2 * PLACES * 9 * into * channels)


def batched(n: int, threads: int) -> Gauge:
    """`HEADS` products n × n by n × n in one call."""

    def make() -> Action:
        a, b = torch.randn(HEADS, n, n), torch.randn(HEADS, n, n)
        return lambda: torch.bmm(a, b)

    return Gauge(Ceiling(kind="batched", name=FLOAT32, threads=threads, size=n), make, 2e-9 * HEADS * n**3)


def calls_of(action: Action, operators: frozenset[str]) -> list[Call]:
    """What an action calls of these."""
    counter = Counter(nn.Identity())
    with counter.watching():
        action()
    return [call for call in total(counter.works.values()).calls if call.operator in operators]


def through(forward: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Action:
    """A forward and a backward pass."""
    x = torch.randn(shape).requires_grad_()
    gradient = torch.ones_like(forward(x))

    def act() -> None:
        x.grad = None
        forward(x).backward(gradient)

    return act


def cells(width: int, threads: int) -> Gauge:
    """An LSTM, forward and backward."""
    with torch.random.fork_rng(devices=[]):
        lstm = nn.LSTM(width, width, batch_first=True)
    shape = (ROWS, STEPS, width)
    operations = 3 * 2 * STEPS * ROWS * 4 * width * 2 * width

    def make() -> Action:
        action = through(lambda x: lstm(x)[0], shape)
        if not calls_of(action, CELLS):
            raise Refused("torch has no LSTM in one call here")
        return action

    return Gauge(Ceiling(kind="cells", name=FLOAT32, threads=threads, size=width), make, 1e-9 * operations)


def attention(threads: int) -> Gauge:
    """Scaled dot-product attention, forward and backward."""
    shape = (1, HEADS, LENGTH, HEAD)
    operations = 7 * 2 * HEADS * LENGTH * LENGTH * HEAD

    def make() -> Action:
        action = through(lambda x: functional.scaled_dot_product_attention(x, x, x), shape)
        if not calls_of(action, ATTENTION):
            raise Refused("torch has no attention in one call here")
        return action

    return Gauge(Ceiling(kind="attention", name=FLOAT32, threads=threads, size=HEAD), make, 1e-9 * operations)


RANGE = (NUMBERS // ROW, ROW)
PICTURES = (16, 64, 16, 16)
FUNCTIONS: dict[str, tuple[Callable[[], Callable[[Tensor], Tensor]], tuple[int, ...]]] = {
    SOFTMAX: (lambda: lambda x: functional.softmax(x, -1), RANGE),
    BATCH_NORM: (lambda: nn.BatchNorm2d(PICTURES[1]), PICTURES),
    LAYER_NORM: (lambda: nn.LayerNorm(ROW), RANGE),
    GELU: (lambda: functional.gelu, RANGE),
    TANH: (lambda: torch.tanh, RANGE),
    POOL: (lambda: nn.MaxPool2d(2), PICTURES),
}
"""By family, what is called on which shape."""


def function(
    family: str, make_it: Callable[[], Callable[[Tensor], Tensor]], shape: tuple[int, ...], threads: int
) -> Gauge:
    """Forward and backward: GB/s of the bytes that the family's operators move by their shapes."""
    operators = frozenset(name for name, its in FAMILY.items() if its == family)
    action = through(make_it(), shape)
    moved = sum(call.bytes * call.times for call in calls_of(action, operators))
    about = Ceiling(kind="function", name=family, threads=threads, size=NUMBERS)

    def make() -> Action:
        if not moved:
            raise Refused(f"torch has no operator of its own for {family} here")
        return action

    return Gauge(about, make, 1e-9 * moved)


def random(threads: int) -> Gauge:
    """Numbers drawn, as dropout does."""

    def make() -> Action:
        mask = torch.empty(NUMBERS)
        return lambda: mask.bernoulli_(0.9)

    return Gauge(Ceiling(kind="function", name=RANDOM, threads=threads, size=NUMBERS), make, 8e-9 * NUMBERS)


def fresh(size: int, threads: int) -> Gauge:
    """A comparison's results, each in memory of its own."""
    count = size // 4

    def make() -> Action:
        torch.ones(FREED // 4)
        x = torch.randn(count)

        def act() -> None:
            kept = [torch.relu(x) for _ in range(KEPT)]
            kept.clear()

        return act

    return Gauge(Ceiling(kind="fresh", threads=threads, size=2 * size), make, 2e-9 * KEPT * size)


def loss(threads: int) -> Gauge:
    """Cross-entropy of a few outputs, forward and backward: what a step takes beside its layers."""
    outputs, targets = torch.randn(FEW, FEW).requires_grad_(), torch.zeros(FEW, dtype=torch.long)

    def act() -> None:
        outputs.grad = None
        functional.cross_entropy(outputs, targets).backward()

    return Gauge(Ceiling(kind="loss", threads=threads), lambda: act, 1, is_rate=False)


def views(threads: int) -> Gauge:
    """A look at numbers in another way, forward and backward."""
    x, gradient = torch.ones(FEW, FEW).requires_grad_(), torch.ones(FEW, FEW)

    def act() -> None:
        x.grad = None
        y = x
        for _ in range(CHAIN):
            y = y.t()
        y.backward(gradient)

    return Gauge(Ceiling(kind="view, trained", threads=threads), lambda: act, 2 * CHAIN, is_rate=False)
