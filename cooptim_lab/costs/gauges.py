"""What is measured of a machine, one small piece of work for each figure: products, memory, operators, optimizers.

A `Gauge` says what it is about and makes an action that can be called again and again; how often, in which order and
with how many threads is for `measuring`. Everything is torch's own, called as a training calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.values import first_line
from ..hardware import chip, cpus
from ..hardware.ceilings import BF16, FLOAT32, INSIDE, PRECISIONS, SKINNY_ROWS, TENSORS, THIN_ROWS, Ceiling
from ..hardware.memory import find_memory
from ..hardware.readings import KIB, MIB, ROOT, sysctl
from .counting import Counter
from .gauge import Action, Gauge, Refused
from .layers import layers
from .work import total

SIZES = (16, 32, 64, 128, 256, 512, 1024)
"""n of products n × n by n × n, and of `SKINNY_ROWS` × n by n × n."""
FEW_SIZES = (16, 64, 256, 1024)
"""n of products `THIN_ROWS` × n by n × n, and n × `SKINNY_ROWS` by `SKINNY_ROWS` × n."""
CHAIN = 50
"""Small operators, one after the other, of a call."""
SMALL = 8
"""Numbers of a small operator's tensors; of the small perceptron width and rows."""
DEPTH = 8
"""Layers of the small perceptron."""
FEW, MANY = 16, 1 << 20
"""Numbers of an optimizer's small and large tensors."""
CACHE_BYTES = 256 * KIB
"""Of the second cache, where the system does not say."""
LEAST_MEMORY, MOST_MEMORY = 96 * MIB, 768 * MIB
"""Gone through beyond the last cache: four times as much as it holds, within these and a quarter of what is free."""

IN_FLOAT32 = "in float32"
"""Of products that could have bf16 inside: they have not, at this size."""


def gauges(threads: int, root: Path = ROOT) -> list[Gauge]:
    """All that is measured with so many threads; the sizes of a kind in their order."""
    return [
        *(product(kind, name, n, threads) for kind in ("square", "skinny") for name in PRECISIONS for n in SIZES),
        *(product(kind, FLOAT32, n, threads) for kind in ("thin", "outer") for n in FEW_SIZES),
        *memory(threads, root),
        *layers(threads),
        *operators(threads),
        *optimizers(threads),
    ]


# Products of matrices.


def product(kind: str, precision: str, n: int, threads: int) -> Gauge:
    """n × n by n × n, or `SKINNY_ROWS` × n by n × n; the result's memory is there.

    Of kind "thin" `THIN_ROWS` × n. Of kind "outer" the gradient of a weight, as `SKINNY_ROWS` rows give it: n × rows by
    rows × n, the first transposed, and the result new.
    """
    rows = {"square": n, "thin": THIN_ROWS}.get(kind, SKINNY_ROWS)

    def outer() -> Action:
        x, g = torch.randn(rows, n), torch.randn(rows, n)
        return lambda: x.t() @ g

    def make() -> Action:
        dtype = torch.bfloat16 if precision == BF16 else torch.float32
        a, b, out = (torch.randn(m, n).to(dtype) for m in (rows, n, rows))

        def act() -> None:
            torch.mm(a, b, out=out)

        try:
            act()
        except RuntimeError as error:  # a processor or a build without it
            raise Refused(first_line(error)) from None
        return act

    def remark() -> str:
        """Of bf16 inside, whether it is: oneDNN decides by the size, and by what the processor has."""
        a, b = torch.randn(rows, n), torch.randn(n, n)
        with bf16_inside():
            by_bf16 = a @ b
        return IN_FLOAT32 if torch.equal(by_bf16, a @ b) else ""

    about = Ceiling(kind=kind, name=precision, threads=threads, size=n)
    gauge = Gauge(about, outer if kind == "outer" else make, 2e-9 * rows * n * n)
    return replace(gauge, remark=remark, around=bf16_inside) if precision == INSIDE else gauge


@contextmanager
def bf16_inside() -> Iterator[None]:
    """While it lasts, oneDNN may round what it multiplies to bf16; the model and its numbers stay float32.

    Raises
    ------
    Refused
        Where torch has no such setting.
    """
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    if not hasattr(matmul, "fp32_precision"):
        raise Refused(f"torch {torch.__version__} has no torch.backends.mkldnn.matmul.fp32_precision")
    before = matmul.fp32_precision  # type: ignore[union-attr]
    matmul.fp32_precision = "bf16"  # type: ignore[union-attr]
    try:
        yield
    finally:
        matmul.fp32_precision = before  # type: ignore[union-attr]


# Memory: STREAM's triad (McCalpin, 1995), a = b + s c. Two arrays are read and one is written.


def memory(threads: int, root: Path) -> list[Gauge]:
    """In the threads' own caches, and beyond the last one."""
    own, last = caches(root)
    free = find_memory(root)[2]
    most = min(MOST_MEMORY, MOST_MEMORY if free is None else free // 4)
    beyond = min(most, max(LEAST_MEMORY, 4 * last))
    far = triad("memory", beyond, threads)
    if beyond < 4 * last:
        why = f"{beyond // MIB} MiB, less than four times the last cache"
        far = replace(far, remark=lambda: why)
    return [triad("cache", own * threads // 2, threads), far]


def caches(root: Path) -> tuple[int, int]:
    """Bytes of a core's own second cache, and of the last one."""
    found = [c for c in chip.find_caches(root, cpus.affinity(), sysctl(root)) or () if c.size]
    sizes = {cache.name: cache.size or 0 for cache in found}
    own = sizes.get("L2", CACHE_BYTES)
    return own, max([own, *sizes.values()])


def triad(kind: str, size: int, threads: int) -> Gauge:
    """a = b + s c over three arrays that have so many bytes together."""
    count = size // 12

    def make() -> Action:
        a, b, c = (torch.ones(count) for _ in range(3))
        return lambda: torch.add(b, c, alpha=2.0, out=a)

    return Gauge(Ceiling(kind=kind, threads=threads, size=12 * count), make, 12e-9 * count)


# Small operators: their numbers take no time, the call does.


def operators(threads: int) -> list[Gauge]:
    """One under no_grad; and one of a small perceptron's step, forward and backward, without loss and optimizer.

    The second is what an operator of a training costs beside its numbers: modules, views and the graph are in it.
    """
    network = nn.Sequential(*(each for _ in range(DEPTH) for each in (nn.Linear(SMALL, SMALL), nn.ReLU())))
    x = torch.ones(SMALL, SMALL)

    def alone() -> Action:
        a, b = torch.ones(SMALL), torch.ones(SMALL)

        def act() -> None:
            with torch.no_grad():
                c = a
                for _ in range(CHAIN):
                    c = c * b

        return act

    def trained() -> None:
        network.zero_grad()
        network(x).backward(x)

    counter = Counter(network)
    with counter.watching():
        trained()
    counted = total(counter.works.values()).operators
    return [
        Gauge(Ceiling(kind="operator", threads=threads), alone, CHAIN, is_rate=False),
        Gauge(Ceiling(kind="operator, trained", threads=threads), lambda: trained, counted, is_rate=False),
    ]


# Optimizers: torch's own, as its loop over the tensors (the default on a CPU) and fused.


def optimizers(threads: int) -> list[Gauge]:
    """SGD with momentum and Adam: seconds of zero_grad and step, of one small tensor, many small ones, and a large one.

    What they come to for so many tensors of so many parameters, `Ceilings.optimizer_seconds` knows.
    """
    kinds: dict[str, Callable[[list[Tensor], dict[str, Any]], torch.optim.Optimizer]] = {
        "SGD": lambda p, how: torch.optim.SGD(p, lr=1e-9, momentum=0.9, **how),
        "Adam": lambda p, how: torch.optim.Adam(p, lr=1e-9, **how),
    }
    ways = {"loop": {"foreach": False, "fused": False}, "fused": {"fused": True}}
    shapes = {"step of a tensor": (1, FEW), "step of tensors": (TENSORS, FEW), "step of a large tensor": (1, MANY)}

    def gauge(kind: str, name: str, way: str) -> Gauge:
        tensors, numbers = shapes[kind]

        def make() -> Action:
            parameters = [torch.zeros(numbers, requires_grad=True) for _ in range(tensors)]
            gradients = [torch.full((numbers,), 1e-3) for _ in parameters]
            try:
                optimizer = kinds[name](parameters, ways[way])
            except (RuntimeError, TypeError) as error:  # a torch that has no such optimizer for a CPU
                raise Refused(first_line(error)) from None

            def act() -> None:
                optimizer.zero_grad()
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                optimizer.step()

            act()  # what it remembers is made now
            return act

        about = Ceiling(kind=kind, name=f"{name}, {way}", threads=threads, size=tensors * numbers)
        return Gauge(about, make, 1, is_rate=False)

    return [gauge(kind, name, way) for name in kinds for way in ways for kind in shapes]
