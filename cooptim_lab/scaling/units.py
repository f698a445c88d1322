"""Bandwidths and durations as people write them: 25Gbit, 3.2 GB/s, 50us."""

from __future__ import annotations

import re

from ..errors import InputError

SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0}


def read_bandwidth(text: str) -> float:
    """Bytes per second of "25Gbit", "100 Mbit/s" or "3.2GB/s": bit are bits, B bytes, the prefixes decimal.

    Raises
    ------
    InputError
        For anything else, a bare number too, of which nobody knows the unit; and for a bandwidth of 0.
    """
    found = re.fullmatch(r"\s*([\d.]+)\s*([kKMGT]?)(bits?|B|bytes?)(/s)?\s*", text)
    try:
        value = float(found[1]) if found else 0.0
    except ValueError:  # several points
        found = None
    if not found:
        raise InputError(f"a link of {text!r}: give its bandwidth with its unit, as 25Gbit or 3GB/s")
    if not value:
        raise InputError(f"a link of {text!r} joins nothing: give more than 0, as 25Gbit")
    return value * SCALES[found[2].lower()] / (8 if found[3].startswith("bit") else 1)


def read_seconds(text: str) -> float:
    """Seconds of "50us", "1.5 ms", "2s".

    Raises
    ------
    InputError
        For anything else, a bare number too.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ns|us|µs|ms|s)\s*", text)
    if not found:
        raise InputError(f"a latency of {text!r}: give it with its unit, as 50us or 0.2ms")
    return float(found[1]) * SECONDS[found[2]]
