"""One sampler for the whole process, at work while somebody looks: begun by the first, ended after the last.

It also remembers the last seconds, and says when what is seen there makes seconds worthless.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from .sampler import Sample, Sampler

PERIOD_SECONDS = 0.5
WINDOW_SECONDS = 5.0
"""That must have been disturbed before it is said: a moment's is nobody's concern."""
TOO_MUCH = 0.05
"""Of the time, stolen or throttled: `studies.quiet` says where it comes from."""


class Watch:
    """Who looks takes part, and leaves.

    Parameters
    ----------
    ranks
        As of `Sampler`.
    """

    def __init__(self, ranks: Callable[[], Mapping[int, int]] = dict) -> None:
        self._make = lambda: Sampler(ranks)
        self._lock = threading.Lock()
        self._watchers = 0
        self._ended = threading.Event()
        self._recent: deque[Sample] = deque()

    @property
    def is_on(self) -> bool:
        """Whether somebody looks."""
        return self._watchers > 0

    @property
    def latest(self) -> Sample | None:
        """The newest sample, or None while there is none."""
        recent = self._recent
        return recent[-1] if recent else None

    @property
    def trouble(self) -> str:
        """Why seconds of the last moments are not to be trusted, in a line; empty where they are."""
        return trouble(list(self._recent))

    def join(self) -> None:
        """Somebody begins to look."""
        with self._lock:
            self._watchers += 1
            if self._watchers == 1:
                self._ended = threading.Event()
                arguments = (self._make(), self._ended)
                threading.Thread(target=self._go_on, args=arguments, name="cooptim-sampler", daemon=True).start()

    def leave(self) -> None:
        """Somebody has seen enough."""
        with self._lock:
            self._watchers -= 1
            if not self._watchers:
                self._ended.set()
                self._recent.clear()

    def _go_on(self, sampler: Sampler, ended: threading.Event) -> None:
        while not ended.wait(PERIOD_SECONDS):
            sample = sampler.take()
            with self._lock:
                if ended.is_set():
                    break
                self._recent.append(sample)
                while len(self._recent) * PERIOD_SECONDS > WINDOW_SECONDS:
                    self._recent.popleft()
        sampler.close()


def trouble(samples: Sequence[Sample]) -> str:
    """Why the seconds of a whole window are not to be trusted; empty where they are, or it is not that long."""
    seconds = sum(sample.seconds for sample in samples)
    if seconds < 0.9 * WINDOW_SECONDS:
        return ""

    def mean(values: Sequence[float | None]) -> float:
        known = [(value, sample.seconds) for value, sample in zip(values, samples, strict=True) if value is not None]
        return sum(value * weight for value, weight in known) / seconds if known else 0.0

    stolen, throttled = mean([sample.stolen for sample in samples]), mean([sample.throttled for sample in samples])
    if stolen > TOO_MUCH:
        return f"other guests of the host took {100 * stolen:.0f} % of this machine: do not trust the seconds"
    if throttled > TOO_MUCH:
        limit = samples[-1].quota
        of = "the CPU quota" if limit is None else f"the quota of {limit:.3g} CPUs"
        return f"{of} was used up in {100 * throttled:.0f} % of its periods: the seconds are those of so little CPU"
    return ""
