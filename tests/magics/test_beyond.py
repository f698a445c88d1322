"""What a speedup view says of more workers: the fan of laws, its words, and where there is none."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from cooptim_magics.curves import law_curves, speedup_curves
from cooptim_magics.tables import row_notes

from cooptim_lab.studies.beyond import beyond, foretell
from tests.magics.test_tables import row


def amdahl(workers, serial=0.05):
    return 1 / (serial + (1 - serial) / workers)


def rows(counts=(1, 2, 4, 8), cpus=64, speedup=amdahl, **fields):
    return [
        row(workers=n, seconds=3.0 / speedup(n), low=speedup(n), high=speedup(n), cpus=cpus, **fields) for n in counts
    ]


def test_four_counts_carry_a_fan_to_twice_as_many():
    *fan, foretold = law_curves(rows())
    assert 1 <= len(fan) <= 3
    assert all(curve.name.startswith("law: ") for curve in fan)
    ends = [float(curve.y[-1]) for curve in fan]
    assert all(abs(a / b - 1) > 0.01 for a, b in itertools.combinations(ends, 2))  # Amdahl's and a ring's are one here
    assert foretold.kind == "marker"
    assert foretold.y[0] == pytest.approx(ends[0])
    assert foretold.lo[0] < ends[0] < foretold.hi[0]
    assert float(fan[0].x[-1]) == 16
    assert float(fan[0].y[-1]) == pytest.approx(amdahl(16), rel=0.03)
    drawn = speedup_curves(rows())
    assert [curve.name for curve in drawn[-1:]] == ["ideal"]
    assert drawn[-1].x[-1] == 16
    assert {curve.name for curve in fan} <= {curve.name for curve in drawn}


def test_the_words_have_an_interval_and_the_next_to_measure():
    (said,) = beyond(rows())
    assert said.startswith("16 workers: ")
    assert "90 %" in said
    assert "by the law" in said
    assert said in row_notes(rows())


@pytest.mark.parametrize(
    "given",
    [
        rows((1, 2, 4)),
        rows(cpus=4),  # 8 workers take turns
        [*rows((1, 2, 4)), dataclasses.replace(rows((8,))[0], trouble="busy")],
        [*rows((1, 2, 4)), *rows((4,))],
        [*rows((1, 2, 4)), *rows((8,), way="subnets")],
    ],
    ids=["three counts", "workers that take turns", "no figure", "a count twice", "two ways"],
)
def test_what_cannot_tell_draws_none(given):
    assert foretell(given) is None
    assert law_curves(given) == []
    assert beyond(given) == []


def test_noise_says_that_it_cannot_tell():
    noise = dict(zip((1, 2, 4, 8), (1, 1.3, 0.75, 1.3), strict=True))
    (said,) = beyond(rows(speedup=lambda n: amdahl(n) * noise[n]))
    assert "the data cannot tell" in said
    assert "by the law" not in said


def test_what_is_lost_stands_in_the_notes():
    (only,) = rows((2,), lost=(0.2, 0.05))
    notes = row_notes([only])
    assert f"{100 * (1 - only.efficiency):.0f} % is lost: 20 % waiting" in " ".join(notes)
    assert type(only).from_summary({**only.summary(), "lost": [0.2, 0.05]}) == only
    assert np.isclose(only.efficiency, amdahl(2) / 2)
