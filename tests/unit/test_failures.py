"""Which of several failures of one job is told."""

from __future__ import annotations

import itertools

import pytest

from cooptim_lab.errors import InputError, LabError, PoolError, RankFailure, RunStopped
from cooptim_lab.ranks.failures import Failure, Weight, say_more, weightier

OF = {
    "a stop": Failure(Weight.STOP, RunStopped("stopped")),
    "MPI's own": Failure(Weight.MPI_RAISED, RankFailure(0, "h", "mpi4py.MPI.Exception: no")),
    "an error": Failure(Weight.RAISED, RankFailure(1, "h", "ValueError: no")),
    "a mistake": Failure(Weight.RAISED, InputError("no")),
    "a time that is up": Failure(Weight.RAISED, PoolError("not done after 3 s")),
    "a death": Failure(Weight.DEATH, RankFailure(2, "h", "was killed")),
}


def told(*names):
    known = None
    for name in names:
        known = weightier(known, OF[name])
    return known


@pytest.mark.parametrize(
    ("weightier_one", "other"),
    [
        ("a death", "an error"),
        ("a death", "a mistake"),
        ("a death", "MPI's own"),
        ("a death", "a stop"),
        ("an error", "MPI's own"),
        ("an error", "a stop"),
        ("a mistake", "a stop"),
        ("a time that is up", "a stop"),
        ("MPI's own", "a stop"),
    ],
)
def test_the_cause_is_told_whichever_comes_first(weightier_one, other):
    for order in itertools.permutations([weightier_one, other]):
        assert told(*order) is OF[weightier_one]


@pytest.mark.parametrize(
    "names", [("an error", "a mistake"), ("a mistake", "an error"), ("a time that is up", "an error")]
)
def test_of_the_same_weight_the_first(names):
    assert told(*names) is OF[names[0]]


def test_in_any_order_of_all_the_death_is_told():
    for order in itertools.permutations(OF):
        assert told(*order) is OF["a death"]


def test_more_is_said_without_losing_what_was():
    failure = say_more(RankFailure(1, "h", "no", "where"), "and more")
    assert (failure.rank, failure.host, failure.message, failure.remote_traceback) == (1, "h", "no; and more", "where")
    assert isinstance(say_more(InputError("no"), "and more"), InputError)
    assert isinstance(failure, LabError)
