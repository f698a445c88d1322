"""`compare` and `speedup` beside two busy loops: no headline that the quiet machine would not give, or "busy".

The loops are plain Python, one for each of two CPUs. What the quiet machine gives is measured first, in the same
process; how quiet it was stands in the note. The trainings are short: it is the verdict that is measured, not they.
"""

from __future__ import annotations

import contextlib
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator

from cooptim_lab import compare, measure_speedup
from cooptim_lab.runs.events import Beside
from cooptim_lab.runs.run import Run
from cooptim_lab.studies import rows as studies
from tests.benchmarks.rows import Row

RUNS, LOOPS, EPOCHS, ROUNDS = 20, 2, 3, 3
BEYOND = 1.25
"""Of the ends of the quiet machine's interval."""
MOST_FALSE = 1
"""Of so many runs on the quiet machine, that say "busy"."""
LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(1_000_000):\n        pass"

Study = Callable[[], Run[list[studies.Row]]]
Interval = dict[str, tuple[float, float]]
STUDIES: dict[str, Study] = {
    "compare": lambda: compare(epochs=EPOCHS, repeats=ROUNDS),
    "speedup": lambda: measure_speedup(way="sharded", workers=(1, 2), epochs=EPOCHS, repeats=ROUNDS),
}


@contextlib.contextmanager
def busy_loops(count: int = LOOPS) -> Iterator[None]:
    """So many processes that do nothing but compute; they end with this one."""
    loops = [subprocess.Popen([sys.executable, "-c", LOOP], start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def rows(runs: int = RUNS) -> list[Row]:
    """For each study, what it says beside the loops, and how often it says "busy" without them."""
    found = []
    for name, study in STUDIES.items():
        quiet = [play(study) for _ in range(runs)]
        with busy_loops():
            loud = [play(study) for _ in range(runs)]
        found += [beside_loops(name, quiet, loud), without(name, quiet)]
    return found


def play(study: Study) -> Run[list[studies.Row]]:
    run = study()
    run.wait()
    return run


def interval(runs: list[Run[list[studies.Row]]]) -> Interval:
    """What the rounds of the runs ranged over, by title, where they were measured."""
    every: dict[str, list[float]] = {}
    for row in (row for run in runs for row in run.wait() if row.is_measured):
        every.setdefault(row.title, []).extend((row.low, row.high))
    return {title: (min(values), max(values)) for title, values in every.items()}


def is_beyond(row: studies.Row, known: Interval) -> bool:
    """Whether a headline is one that the quiet machine would not give; without an interval every headline is."""
    if row.speedup is None:
        return False
    low, high = known.get(row.title, (float("inf"), 0.0))
    return not low / BEYOND <= row.speedup <= high * BEYOND


def beside_loops(name: str, quiet: list[Run[list[studies.Row]]], loud: list[Run[list[studies.Row]]]) -> Row:
    known = interval(quiet)
    beyond = [row for run in loud for row in run.wait() if is_beyond(row, known)]
    bad = sum(any(is_beyond(row, known) for row in run.wait()) for run in loud)
    hidden = [row.high for run in loud for row in run.wait() if row.is_busy and row.high is not None]
    spans = ", ".join(f"{title} {low:.2f} to {high:.2f}" for title, (low, high) in known.items() if title != "as it is")
    shown = "; ".join(f"{row.title} {row.figure}" for row in beyond) or "none"
    return Row(
        name=f"{name} beside {LOOPS} busy loops: headlines beyond the quiet interval",
        ours=bad,
        other=len(loud),
        unit="runs",
        ratio=bad / len(loud),
        reach="0",
        holds=bad == 0 and bool(known),
        note=f"quiet: {spans or 'never measured'}; beyond {BEYOND} of it: {shown}; {busy(loud)} of {len(loud)} runs "
        f"say busy, where the largest round had {max(hidden, default=float('nan')):.1f}; {seen(loud)}",
    )


def without(name: str, quiet: list[Run[list[studies.Row]]]) -> Row:
    most = MOST_FALSE * len(quiet) // RUNS
    return Row(
        name=f'{name} without them: runs that say "busy"',
        ours=busy(quiet),
        other=len(quiet),
        unit="runs",
        ratio=busy(quiet) / len(quiet),
        reach=f"<= {most} of {len(quiet)}",
        holds=busy(quiet) <= most,
        note=f"{seen(quiet)}, a round that was done again as it was then; {why(quiet)}",
    )


def busy(runs: list[Run[list[studies.Row]]]) -> int:
    """How many have a row without a headline."""
    return sum(any(row.is_busy for row in run.wait()) for run in runs)


def why(runs: list[Run[list[studies.Row]]]) -> str:
    """Why rounds did not count, and of how many runs that say "busy" each was a reason."""
    reasons = Counter(
        reason
        for run in runs
        if any(row.is_busy for row in run.wait())
        for reason in {
            re.sub(r"[\d.]+", "…", one.why) for one in run.log.since(0) if isinstance(one, Beside) and one.why
        }
    )
    return "; ".join(f"{reason}: {count}" for reason, count in reasons.most_common()) or "no round was in doubt"


def seen(runs: list[Run[list[studies.Row]]]) -> str:
    """What others took of the CPUs meanwhile, by the rounds."""
    shares = [
        one.others for run in runs for one in run.log.since(0) if isinstance(one, Beside) and one.others is not None
    ]
    if not shares:
        return "what others took is not known"
    return f"others had {100 * statistics.median(shares):.0f} % of the CPUs, {100 * max(shares):.0f} % at most"
