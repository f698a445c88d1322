"""Sub-networks beside the original and beside one network of as many parameters, over seeds."""

from __future__ import annotations

import statistics

import pytest

from cooptim_lab import compare_seeds, digits
from cooptim_lab.runs.events import Note
from cooptim_lab.studies.rows import Row, verdict
from tests.support import PATIENCE_SECONDS, refused

pytestmark = pytest.mark.mpi


def test_three_rows_with_mean_and_spread_and_a_verdict(pool):
    run = compare_seeds(digits(), pool=pool, seeds=3, subnets=4, workers=2, epochs=6, engine="stacked")
    original, subnets, as_large = run.wait(PATIENCE_SECONDS)
    assert [row.title for row in (original, subnets, as_large)] == [
        "as it is",
        "4 sub-networks",
        "one network, as many parameters",
    ]
    assert all(row.repeats == 3 and row.spread is not None and row.spread > 0 for row in (original, subnets, as_large))
    assert subnets.parameters < original.parameters
    assert 0.95 < as_large.parameters / subnets.parameters <= 1
    notes = [event.text for event in run.log.since(0) if isinstance(event, Note)]
    assert verdict(subnets, original) in notes
    assert verdict(subnets, as_large) in notes


def test_bad_numbers_of_seeds():
    with refused("seeds = 1", "2 or more"):
        compare_seeds(digits(), seeds=1)


def row(title, metrics, metric_name="accuracy"):
    return Row(
        way="baseline", title=title, workers=1, seconds=1, baseline_seconds=1, repeats=len(metrics), low=1, high=1,
        loss=0, metric=statistics.mean(metrics), spread=statistics.stdev(metrics), metric_name=metric_name,
        parameters=1,
    )  # fmt: skip


def test_a_verdict_is_given_only_where_the_spread_lets_it():
    good, bad, vague = row("A", [0.97, 0.98, 0.97]), row("B", [0.90, 0.91, 0.90]), row("C", [0.99, 0.85, 0.95])
    assert verdict(good, bad) == verdict(bad, good) == "'A' scores better here than 'B'"
    assert "alike" in verdict(good, vague)
    low, high = row("A", [0.1, 0.11], "loss"), row("B", [0.5, 0.51], "loss")
    assert verdict(high, low) == "'A' scores better here than 'B'"
    assert verdict(row("A", [1.0, 1.1], "f1"), row("B", [2.0, 2.1], "f1")) == "'A' has the lower f1 of it and 'B'"
