"""The machine as it is used, live for a while under a cell; what stays is what was seen of it, in words.

It must not know what runs meanwhile.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Sequence
from html import escape

import anywidget
import traitlets
from IPython.display import display, update_display

from cooptim_lab.hardware import size
from cooptim_lab.hardware.sampler import Sample
from cooptim_lab.hardware.watching import PERIOD_SECONDS

from . import strip
from .chart import bundle
from .words import duration


class MachineView(anywidget.AnyWidget):
    """The hardware strip, alone."""

    _esm = bundle("strip.js", "machine.js")
    _css = bundle("live.css", "strip.css")

    machine = traitlets.Dict(help="a sample of the hardware, as strip.shown gives it; empty: none").tag(sync=True)


def show_live(seconds: float) -> threading.Thread:
    """Put the strip under the running cell, let it live for so long on a thread of its own, then leave words there.

    Returns
    -------
    threading.Thread
        That ends when it does.
    """
    view, place = MachineView(), uuid.uuid4().hex
    strip.watch.join()
    display(view, display_id=place)

    def live() -> None:
        seen, until = dict[float, Sample](), time.monotonic() + seconds
        while time.monotonic() < until:
            sample = strip.watch.latest
            if sample is not None:
                seen[sample.at] = sample
                view.machine = strip.shown()
            time.sleep(min(PERIOD_SECONDS, max(0.0, until - time.monotonic())))
        strip.watch.leave()
        lines = said_of(list(seen.values()))
        html = "".join(f"<div>{escape(line)}</div>" for line in lines)
        update_display({"text/plain": "\n".join(lines), "text/html": html}, display_id=place, raw=True)
        view.close()

    thread = threading.Thread(target=live, name="cooptim-hardware-live", daemon=True)
    thread.start()
    return thread


def said_of(samples: Sequence[Sample]) -> list[str]:
    """What was seen, a line each: the mean of every CPU and its most, what was stolen, throttled, in use."""
    if not samples:
        return ["nothing was seen of the machine"]
    first = f"seen for {duration(sum(sample.seconds for sample in samples))}:"
    lines = []
    by_cpu: dict[int, list[float]] = {}
    for sample in samples:
        for core in sample.cores:
            by_cpu.setdefault(core.number, []).append(core.busy)
    for number, busy in sorted(by_cpu.items()):
        mean = 100 * sum(busy) / len(busy)
        lines.append(f"CPU {number}: {mean:.0f} % busy, {100 * max(busy):.0f} % at the most")
    if not by_cpu:
        lines.append("CPUs: unknown")
    stolen = [sample.stolen for sample in samples if sample.stolen is not None]
    if stolen:
        lines.append(f"taken by other guests of the host: {100 * sum(stolen) / len(stolen):.1f} %")
    last = samples[-1]
    if last.quota is not None:
        shares = [sample.throttled or 0.0 for sample in samples]
        used_up = 100 * sum(shares) / len(shares)
        lines.append(f"quota of {last.quota:.3g} CPUs: used up in {used_up:.0f} % of its periods")
    memory = [sample.memory for sample in samples if sample.memory is not None]
    most = f"{size(max(memory))} of {size(last.memory_limit)} at the most" if memory else "unknown"
    lines.append(f"memory: {most}")
    for number in range(len(last.gpus)):
        busy = [each.gpus[number].busy for each in samples if len(each.gpus) > number]
        known = [share for share in busy if share is not None]
        lines.append(f"GPU {number}: " + (f"{100 * sum(known) / len(known):.0f} % busy" if known else "unknown"))
    return [first, *lines]
