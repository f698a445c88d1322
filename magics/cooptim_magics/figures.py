"""Which figures of a machine the table of ceilings has beside products of matrices, and what each means to a reader."""

from __future__ import annotations

from cooptim_lab.costs.families import FORWARD, INPUT, WEIGHT, convolving
from cooptim_lab.hardware.ceilings import FLOAT32, TENSORS

LAYERS = (
    *(
        (
            f"convolution, {what}",
            "convolution",
            convolving(what, 8, False),
            "3 × 3, c channels to c, 8 × 8 numbers each",
        )
        for what in (FORWARD, INPUT, WEIGHT)
    ),
    ("LSTM", "cells", FLOAT32, "forward and backward, by its width"),
    ("results in new memory", "fresh", "", "by bytes: what large activations wait for"),
)
FUNCTION = "forward and backward, by its bytes"
PLAIN = (
    ("memory in cache", "cache", "a = b + 2 c in the cores' own caches, by its bytes"),
    ("memory beyond", "memory", "the same beyond the last cache: what large layers wait for"),
    ("an operator", "operator", "a call on 8 numbers: what a small layer costs, however small"),
    ("an operator, trained", "operator, trained", "of a small network's forward and backward pass, all calls in it"),
)
OPTIMIZER = (
    ("one small tensor", "step of a tensor", "zero_grad and step: the call's own part"),
    (f"{TENSORS} small tensors", "step of tensors", "the same: what each tensor adds"),
    ("one large tensor", "step of a large tensor", "the same, of 2²⁰ parameters"),
)
LINKS = (
    ("message, latency", "latency", "α between two ranks, however short the message"),
    ("message, bandwidth", "link", "β of long messages, one way"),
    ("both ways", "link, both ways", "each way while both are in use"),
)
