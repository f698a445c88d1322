"""What `%load_ext cooptim_lab` adds to a fresh kernel's first cell."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

from tests.benchmarks.rows import Row, interleave

REACH_SECONDS = 0.15


def rows() -> list[Row]:
    """One row: the first cell of a fresh kernel with and without the extension."""
    ours, other = interleave(lambda: first_cell("%load_ext cooptim_lab"), lambda: first_cell("pass"))
    return [
        Row(
            name="load_ext",
            ours=ours,
            other=other,
            unit="s",
            ratio=ours / other,
            reach=f"ours - other <= {REACH_SECONDS} s",
            holds=ours - other <= REACH_SECONDS,
            note=f"first cell of a fresh kernel, beside an empty one: {ours - other:+.3f} s",
        )
    ]


def first_cell(code: str) -> float:
    """Seconds from sending the first cell of a fresh kernel to its reply."""
    with fresh_kernel() as client:
        began = time.perf_counter()
        reply = client.execute_interactive(code, timeout=60, output_hook=lambda message: None)
        seconds = time.perf_counter() - began
    assert reply["content"]["status"] == "ok", reply["content"]
    return seconds


@contextmanager
def fresh_kernel() -> Iterator[BlockingKernelClient]:
    """A kernel of this interpreter, ready."""
    manager = KernelManager(kernel_cmd=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
