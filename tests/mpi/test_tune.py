"""A tuning on real ranks, short: what it ends in, how it is stopped, what it refuses. No test asks how fast it is."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from cooptim_lab import RunStopped, Task, compare, train, tune
from cooptim_lab.codesign.tuning import AS_IS, PLAN
from cooptim_lab.levers import Lever, Plan
from cooptim_lab.levers.lever import KINDS
from cooptim_lab.runs import store
from cooptim_lab.runs.events import Ended, Measured, Note, Phase, Progress, Raced
from tests.support import refused, wait_until

pytestmark = [pytest.mark.mpi, pytest.mark.timeout(240)]
PATIENCE_SECONDS = 180
SHORT = {"budget": 8.0, "epochs": 4, "levers": "threads,fused,batch,lr"}

X = np.random.default_rng(0).normal(size=(600, 8)).astype("float32")
Y = (X[:, 0] > X[:, 1]).astype("int64")


@pytest.fixture(scope="module", autouse=True)
def patient():
    """A slow machine is no reason to fail: that a budget is too small is said only where it is asked."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("cooptim_lab.codesign.tune.NEEDED", 0)
        patched.setattr("cooptim_lab.codesign.tune.GOAL_SEEDS", 3)
        patched.setattr("cooptim_lab.codesign.racing.ROUNDS", 2)
        patched.setattr("cooptim_lab.codesign.proof.MOST", 5)
        yield patched


def network():
    from torch import nn

    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))


def task(**changed):
    return Task(**{"model": network, "data": (X, Y), "name": "halves", **changed})


def of(run, kind):
    return [event for event in run.log.since(0) if isinstance(event, kind)]


def said(run):
    return [event.text for event in of(run, Note)]


def test_answers_in_smaller_numbers_stand_beside_it(tuned):
    tried = [each for each in tuned.result.answers if each.figure is not None]
    assert "int8" in [each.numbers for each in tried]
    assert any(each.sentence in text for each in tried for text in tuned.result.sentences())
    (ended,) = of(tuned, Ended)
    assert [each["numbers"] for each in ended.summary["answers"]] == ["bf16", "int8"]


@pytest.fixture(scope="module")
def tuned(pool, calm):
    run = tune(task(), pool=pool, keep_accuracy="3%", **SHORT)
    run.wait(PATIENCE_SECONDS)
    return run


def test_it_ends_in_a_proof_on_fresh_seeds(tuned):
    found = tuned.result
    parts = {part.title: part for part in found.parts}
    assert tuned.state == "done"
    assert len(parts[AS_IS].seconds) >= 5
    if PLAN in parts and not parts[PLAN].why:
        assert len(parts[PLAN].to_goal) == len([one for one in parts[AS_IS].seconds if math.isfinite(one)])
        assert found.headline == parts[PLAN].figure
    assert all(ratio == 1 for ratio in parts[AS_IS].to_goal)
    assert found.winner is not None
    assert found.raced == found.winner.figure


def test_everything_is_told_as_it_becomes_known(tuned):
    rows = [event.row for event in of(tuned, Raced)]
    assert {row["state"] for row in rows} >= {"in", "proof", "won"}
    assert any(row["gate"] is not None and row["to_goal"] is None for row in rows if row["state"] != "proof")
    phases = [event.text for event in of(tuned, Phase)]
    assert len(of(tuned, Progress)) >= len([text for text in phases if text.startswith(("round ", "proof, "))])
    order = [next(i for i, text in enumerate(phases) if text.startswith(start)) for start in (
        "for the goal, seed 0", "which levers apply", "a moment of each lever", "round 1: ", "proof, seed 1000: ",
    )]  # fmt: skip
    assert order == sorted(order)
    assert any(text.startswith("the goal is accuracy") for text in said(tuned))
    (end,) = of(tuned, Ended)
    assert end.summary["sentences"] == tuned.result.sentences()
    json.dumps(end.summary, allow_nan=False)


def test_it_is_one_record(tuned):
    assert len(store.load(tuned.id).events) == len(tuned.log.since(0))


def test_the_line_that_repeats_it_is_one(tuned, pool):
    plan = tuned.result.winner.plan
    result = train(task(), pool=pool, plan=str(plan), epochs=2).wait(PATIENCE_SECONDS)
    assert result.options["plan"] == str(plan)


@pytest.mark.parametrize("plan", ["fused,batch=32", "subnets=2,workers=2", "shards=2,batch=32", "narrow=0.5,fused"])
def test_every_kind_of_plan_trains(pool, plan):
    result = train(task(), pool=pool, plan=plan, epochs=2, seed=3).wait(PATIENCE_SECONDS)
    assert result.state == "done"
    assert result.way == {"subnets": "subnets", "shards": "sharded"}.get(plan.partition("=")[0], "baseline")
    assert len(result.path) == 2


def test_a_plan_over_shards_learns_what_the_options_say(pool):
    options = {"pool": pool, "epochs": 2}
    from cooptim_lab import train_sharded

    by_plan = train(task(), plan="shards=2,batch=32", **options).wait(PATIENCE_SECONDS)
    plain = train_sharded(task(), workers=2, aggregate="shared", batch=32, **options).wait(PATIENCE_SECONDS)
    assert by_plan.loss == plain.loss


@pytest.mark.parametrize("workers", [1, 2])
def test_ranks_agree_that_the_goal_is_reached(pool, workers):
    from cooptim_lab import train_sharded

    whole = train_sharded(task(), pool=pool, workers=workers, epochs=6).wait(PATIENCE_SECONDS)
    goal = whole.path[2][3]
    first = next(epoch for epoch, _, _, metric in whole.path if metric >= goal)
    result = train_sharded(task(), pool=pool, workers=workers, epochs=6, until=goal).wait(PATIENCE_SECONDS)
    assert (result.state, len(result.path)) == ("done", first)


def test_a_lever_of_a_cell_is_raced_and_one_that_diverges_is_named(pool):
    names: dict = {"__name__": "__main__"}
    source = (
        "from cooptim_lab import Lever\n"
        "class Wild(Lever):\n"
        "    name, help, changes = 'wild', 'too fast', True\n"
        "    def change_optimizer(self, optimizer):\n"
        "        optimizer.param_groups[0]['lr'] = 1e30\n"
    )
    exec(source, names)
    try:
        run = tune(task(), pool=pool, keep_accuracy="3%", **{**SHORT, "levers": "wild,fused"})
        run.wait(PATIENCE_SECONDS)
        last = {event.row["plan"]: event.row for event in of(run, Raced) if event.row["state"] != "proof"}
        wild = [row for text, row in last.items() if "wild" in text]
        assert wild
        assert all(row["state"] == "out" for row in wild)
        assert "wild" not in str(run.result.plan)
        assert run.result.sentences()
    finally:
        KINDS.pop("wild")


def test_where_no_plan_is_worth_a_training_there_is_no_gain(pool, monkeypatch):
    monkeypatch.setattr("cooptim_lab.codesign.candidates.WORTH", 0.0)  # whatever a moment of a plan takes
    run = tune(task(), pool=pool, keep_accuracy="3%", **{**SHORT, "levers": "fused,threads"})
    result = run.wait(PATIENCE_SECONDS)
    assert run.state == "done" and not result.plan and not result.is_gain
    assert "no gain on this machine: no plan was worth a training" in result.sentences()[0]


def test_it_is_stopped_with_the_best_so_far(pool):
    run = tune(task(), pool=pool, keep_accuracy="3%", **{**SHORT, "budget": 200.0})
    assert wait_until(lambda: any(event.row["to_goal"] for event in of(run, Raced)))
    run.stop()
    assert wait_until(lambda: run.ended)
    assert run.state == "stopped"
    assert run.result.winner is not None
    assert run.result.sentences()[0].startswith("stopped before the proof: ")


def test_stopped_before_anything_was_raced_it_has_none(pool):
    run = tune(task(), pool=pool, **SHORT)
    assert wait_until(lambda: of(run, Phase))
    run.stop()
    with pytest.raises(RunStopped):
        run.wait(PATIENCE_SECONDS)


def test_a_budget_that_is_too_small_says_what_it_needs(pool, monkeypatch):
    monkeypatch.setattr("cooptim_lab.codesign.tune.NEEDED", 8)
    with refused("budget = 0.1", "a training of halves takes", "at the least; give --budget"):
        tune(task(), pool=pool, budget=0.1, epochs=4).wait(PATIENCE_SECONDS)


def test_a_metric_of_ones_own_is_not_taken_for_better_when_higher(pool):
    def errors(outputs, y):
        return float((outputs.argmax(1) != y).float().mean())

    run = tune(task(metric=errors), pool=pool, keep_accuracy="20%", **SHORT)
    run.wait(PATIENCE_SECONDS)
    assert any(
        "judged by the held-out loss: whether a higher errors is better is not known" in text for text in said(run)
    )
    assert str(run.result.goal).startswith("loss ")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"levers": "speed"}, ("there is no lever speed", "fused")),
        ({"keep_accuracy": "much"}, ("keep_accuracy", "0.5%")),
        ({"workers": 2}, ("workers = 2", "leave it out")),
        ({"budget": 0.0}, ("budget = 0.0",)),
    ],
)
def test_what_is_refused_at_once(options, parts):
    with refused(*parts):
        tune(task(), **options)


def test_compare_has_a_fourth_row(pool):
    run = compare(task(), pool=pool, epochs=2, repeats=1, plan="batch=32,fused")
    rows = run.wait(PATIENCE_SECONDS)
    assert [row.way for row in rows] == ["baseline", "subnets", "sharded", "co-designed"]
    assert rows[3].title == "co-designed: batch=32,fused"
    assert {event.row["title"] for event in of(run, Measured)} == {row.title for row in rows}


def test_a_lever_of_ones_own_travels(pool):
    class Smaller(Lever):
        name = "smaller"

        def options(self):
            return {"batch": 16}

    try:
        result = train(task(), pool=pool, plan=Plan((Smaller(),)), epochs=1).wait(PATIENCE_SECONDS)
        assert result.options["batch"] == 16
    finally:
        KINDS.pop("smaller")
