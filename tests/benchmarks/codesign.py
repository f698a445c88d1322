"""Co-design: what `tune` gains, beside torch's default, the tuned default, another tuner and an exhaustive sweep; and
whether its numbers are honest.

Everything is measured on the ranks that a user gets. Where two things are compared, they take turns on the same seeds,
and the median of the rounds' own ratios counts.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cooptim_lab import Task, tune
from cooptim_lab.codesign.figures import Figure, figure, interval_in_words
from cooptim_lab.codesign.goal import Goal, seconds_an_epoch
from cooptim_lab.codesign.trainer import Trainer
from cooptim_lab.codesign.tuning import AS_IS, PLAN, TUNED, Tuning
from cooptim_lab.data.datasets import digits
from cooptim_lab.levers import Plan
from cooptim_lab.ranks.job import give_values
from cooptim_lab.ranks.pool import RankPool
from cooptim_lab.runs.result import Result
from cooptim_lab.runs.run import Run
from tests.benchmarks.codesign_networks import NETWORKS
from tests.benchmarks.rows import Row

BUDGET, EPOCHS = 60.0, 20
SWEPT = "threads,fused,batch,lr,narrow"
VALUES = {
    "threads": ("", "threads=1"),
    "fused": ("", "fused"),
    "batch": ("", "batch=128", "batch=128,lr=2", "batch=128,lr=1.41", "batch=256", "batch=256,lr=4", "batch=256,lr=2"),
    "narrow": ("", "narrow=0.5", "narrow=0.25", "narrow=0.1"),
}
"""What the sweep goes through: as `tune` may, with the levers `SWEPT`."""
SWEEP_SEEDS, FINALISTS, FINAL_SEEDS = 2, 5, 6
HONEST, PAIRS, MOST_MISSES = 200, 5, 16
TUNES, SHORT_BUDGET = 20, 15.0
PEER = "pytorch-autotune==2.0.0"
REACHES = {"README's perceptron": (0.25, 0.35), "CNN with BatchNorm": (0.6, None), "transformer": (0.6, None)}


def tasks() -> dict[str, Task]:
    """By name."""
    x, y = digits().data()
    images = np.asarray(x, dtype="float32").reshape(-1, 8, 8)
    inputs = dict.fromkeys(NETWORKS, images) | {"README's perceptron": x}
    return {name: Task(model=network, data=(inputs[name], y), name=name) for name, network in NETWORKS.items()}


def rows() -> Iterator[Row]:
    """All rows of the section on co-design in README."""
    with RankPool(2) as pool:
        for name, task in tasks().items():
            found = tune(task, pool=pool, budget=BUDGET, epochs=EPOCHS).wait()
            swept = tune(task, pool=pool, budget=BUDGET, epochs=EPOCHS, levers=SWEPT).wait()
            best, beside = sweep(pool, task, swept)
            yield from gained(name, found, beside_best=beside, best=best)
            yield single_lever_row(name, found)
            yield sweep_row(name, swept, best, beside)
            yield peer_row(pool, name, task, found)
        yield honesty_row(pool, tasks()["README's perceptron"])
        yield luck_row(pool, tasks()["README's perceptron"])


def gained(name: str, found: Tuning, *, beside_best: float, best: Plan) -> Iterator[Row]:
    """P to the same accuracy beside the default, and beside the best that one process does with its steps."""
    parts = {part.title: part for part in found.parts}
    said = found.sentences()[0]
    for other, proved, reach in zip((AS_IS, TUNED), (found.headline, found.beside_tuned), REACHES[name], strict=True):
        if proved is None or (other == TUNED and TUNED not in parts):
            continue
        mine = parts.get(PLAN, parts[AS_IS])
        is_none = not found.is_gain
        holds = reach is None or proved.value <= reach or (is_none and not best)
        bound = "measured" if reach is None else f"<= {reach}"
        yield Row(
            f"{name}: seconds to {found.goal}, co-designed beside {other}",
            _median(mine.seconds), _median(parts[other].seconds), "s", proved.value, bound, holds,
            f"{proved.pairs} fresh seeds, 95 % {interval_in_words(proved)}, {proved.misses} misses; {said}; plan "
            f"{found.plan or 'none'}; the race said {found.raced and found.raced.value:.2f}; "
            f"the sweep's best: {best or 'the default'}, beside which the swept plan takes {beside_best:.2f}",
        )  # fmt: skip


def single_lever_row(name: str, found: Tuning) -> Row:
    """Beside the best lever alone, in the proof's own rounds."""
    alone = [part for part in found.parts if part.title.endswith(" alone") and part.figure is not None]
    plan = next((part for part in found.parts if part.title == PLAN), found.parts[0])
    best = min(alone, key=lambda part: part.figure.value, default=found.parts[0])
    ratio = _paired(plan.seconds, best.seconds)
    return Row(
        f"{name}: seconds to the goal, co-designed beside the best single lever",
        _median(plan.seconds), _median(best.seconds), "s", ratio, "<= 1.05", ratio <= 1.05,
        f"{best.title}; {len(best.seconds)} rounds that both were trained in",
    )  # fmt: skip


def sweep(pool: RankPool, task: Task, tuned: Tuning) -> tuple[Plan, float]:
    """The best of all combinations, and the tuned plan's seconds over its own, on fresh seeds that both share."""
    plans = [Plan.read(",".join(filter(None, texts))) for texts in itertools.product(*VALUES.values())]
    took = {str(plan): 0.0 for plan in plans}
    for seed in range(SWEEP_SEEDS):
        for plan, seconds in zip(plans, _seconds(pool, task, plans, seed, tuned.goal), strict=True):
            took[str(plan)] += seconds
    finalists = sorted(plans, key=lambda plan: took[str(plan)])[:FINALISTS]
    entrants = list({str(plan): plan for plan in (*finalists, tuned.plan)}.values())
    final: dict[str, list[float]] = {str(plan): [] for plan in entrants}
    for number in range(FINAL_SEEDS):
        order = entrants[:: 1 if number % 2 else -1]
        for plan, seconds in zip(order, _seconds(pool, task, order, 5000 + number, tuned.goal), strict=True):
            final[str(plan)].append(seconds)
    best = min(finalists, key=lambda plan: _median(final[str(plan)]))
    return best, _paired(final[str(tuned.plan)], final[str(best)])


def sweep_row(name: str, tuned: Tuning, best: Plan, beside: float) -> Row:
    """How far from the best of all combinations."""
    count = math.prod(map(len, VALUES.values()))
    return Row(
        f"{name}: the plan that tune found beside the best of an exhaustive sweep of {SWEPT}",
        beside, 1.0, "of its seconds", beside, "<= 1.10", beside <= 1.10,
        f"tune: {tuned.plan or 'the default'}; sweep: {best or 'the default'}, of {count} plans, {SWEEP_SEEDS} seeds "
        f"each, then {FINALISTS} on {FINAL_SEEDS} fresh ones beside it",
    )  # fmt: skip


def peer_row(pool: RankPool, name: str, task: Task, found: Tuning) -> Row:
    """Beside another tuner, in an environment of its own: each beside the default in its own process."""
    assert found.goal is not None
    x, y = task.data
    with tempfile.TemporaryDirectory() as folder:
        python = _environment(Path(folder) / "peer")
        np.savez(Path(folder) / "data.npz", x=np.asarray(x, dtype="float32"), y=np.asarray(y))
        goal = [str(found.goal.value), "accuracy" if found.goal.is_accuracy else "loss"]
        command = [str(python), "-m", "tests.benchmarks.codesign_peer", f"{folder}/data.npz", name, *goal, str(EPOCHS)]
        environment = {**os.environ, "HOME": folder, "XDG_CACHE_HOME": folder}  # what it keeps is of this run only
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900, env=environment)
    told = json.loads(done.stdout.splitlines()[-1])
    theirs = figure([math.inf if ratio is None else ratio for ratio in told["ratios"]])
    ours = found.headline or Figure(1.0)
    assert theirs is not None
    ratio = ours.value / theirs.value
    return Row(
        f"{name}: P to the goal, beside {PEER}",
        ours.value, theirs.value, "P", ratio, "<= 1.0", ratio <= 1.0,
        f"theirs chose {told['chose']} in {told['search']:.0f} s, {theirs.misses} of {theirs.pairs} misses; each "
        "beside the default in its own process",
    )  # fmt: skip


def honesty_row(pool: RankPool, task: Task) -> Row:
    """Comparisons of a plan with itself: how often the interval of P leaves out 1."""
    missed, plan = 0, Plan.read("fused,threads=1")
    for study in range(HONEST):
        ratios = []
        told = _trainer(pool, task, 1).train([plan] * (2 * PAIRS), study, 0.0, "the same")
        for pair in range(PAIRS):
            first, second = (seconds_an_epoch(told[2 * pair + side]) for side in range(2))
            ratios.append(first / second if (study + pair) % 2 else second / first)
        found = figure(ratios)
        assert found is not None
        missed += found.is_told_apart is True
    return Row(
        f"{HONEST} comparisons of a plan with itself: 95 % intervals that miss 1",
        missed, 0.05 * HONEST, "intervals", missed / (0.05 * HONEST), f"<= {MOST_MISSES}", missed <= MOST_MISSES,
        f"{PAIRS} pairs each, sides in turns; a perfect interval misses more than {MOST_MISSES} in 2.4 %",
    )  # fmt: skip


def luck_row(pool: RankPool, task: Task) -> Row:
    """How much too good the race's own number is."""
    proved, raced = [], []
    for number in range(TUNES):
        found = tune(task, pool=pool, budget=SHORT_BUDGET, epochs=10, seed=100 * number).wait()
        if found.headline is not None and found.raced is not None and math.isfinite(found.headline.value):
            proved.append(found.headline.value)
            raced.append(found.raced.value)
    ratio = statistics.median(one / other for one, other in zip(raced, proved, strict=True))
    return Row(
        f"the race's P beside the proved one, over {TUNES} tunes",
        _median(raced), _median(proved), "P", ratio, "measured", True,
        f"from {min(a / b for a, b in zip(raced, proved, strict=True)):.2f} to "
        f"{max(a / b for a, b in zip(raced, proved, strict=True)):.2f}; the proved one is the headline, always",
    )  # fmt: skip


def _trainer(pool: RankPool, task: Task, epochs: int) -> Trainer:
    """Trains as `tune` does."""

    def ask(program: Callable[..., Any], **arguments: Any) -> list[Any]:
        child: Run[list[Any]] = Run("call", {"workers": 1})
        pool.submit(child, program, {"task": task, **arguments}, workers=1, finish=give_values)
        return child.wait()

    return Trainer(task, pool, epochs, 64, ask, lambda child: child.wait(), lambda said: None)


def _seconds(pool: RankPool, task: Task, plans: Sequence[Plan], seed: int, goal: Goal | None) -> list[float]:
    """Of each, to the goal; infinite where it never gets there, or diverged."""
    assert goal is not None
    told = _trainer(pool, task, EPOCHS).train(plans, seed, max(0.0, goal.value), "sweep")
    return [goal.seconds(result) if isinstance(result, Result) else math.inf for result in told]


def _median(values: Sequence[float]) -> float:
    return statistics.median_high(values) if values else math.inf


def _paired(first: Sequence[float], second: Sequence[float]) -> float:
    """The median of the rounds' own ratios; a miss of the first is infinite, of both says nothing."""
    ratios = [a / b for a, b in zip(first, second, strict=False) if math.isfinite(b)]
    return statistics.median(ratios) if ratios else math.inf


def _environment(folder: Path) -> Path:
    """A virtual environment that has this one's packages too, and the peer: its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", str(folder)], check=True)
    python = folder / "bin" / "python"
    here = next(path for path in sys.path if path.endswith("site-packages"))
    (next((folder / "lib").glob("python*/site-packages")) / "beside.pth").write_text(here + "\n")
    command = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", PEER]
    subprocess.run(command, check=True, timeout=300)
    return python
