"""The hardware strip: what a view shows of the machine while it is open. One sampler feeds all of this kernel's views.

What is drawn of it is strip.js's matter.
"""

from __future__ import annotations

from typing import Any

from cooptim_lab.hardware.watching import Watch
from cooptim_lab.ranks.shared import shared_processes

watch = Watch(shared_processes)
"""Of this kernel. A view joins it when it opens and leaves it when it closes."""


def shown() -> dict[str, Any]:
    """The newest sample and what is wrong with it, as strip.js takes them; empty while there is none."""
    sample = watch.latest
    return {} if sample is None else {**sample.summary(), "trouble": watch.trouble}
