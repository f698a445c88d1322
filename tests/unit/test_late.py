"""Stacks that meet the model late, and losses of which a stack must know more than one network: cases H, A and B."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from cooptim_lab.preparing.reduction import MEAN, Reduction
from tests.plain import DECAYING, EXACT, SCHEDULES, X, Y, alone, by_dimensions, distance, run, task
from tests.support import refused

pytestmark = pytest.mark.usefixtures("one_thread")


class Late(nn.Module):
    """After some steps it branches by its data, which a stack cannot."""

    def __init__(self, after=6):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(64, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.steps, self.after = 0, after

    def forward(self, x):
        self.steps += self.training
        h = self.norm(self.first(x)).tanh()
        if self.steps > self.after and h.sum().item() > -1e9:
            h = 2 * h
        return self.last(h) if not self.training else self.last(h / 2 if self.steps > self.after else h)


class Early(Late):
    """It does so from the first whole batch on."""

    def forward(self, x):
        h = self.norm(self.first(x)).tanh()
        if len(x) > 8 and h.sum().item() > 0:
            h = 2 * h
        return self.last(h)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, by_dimensions])
@pytest.mark.parametrize("data", ["all", "bootstrap"])
def test_a_stack_that_fails_in_mid_run_goes_on_separately_from_where_it_is(optimizer, data):
    given = task(subnet=lambda i: Late(8).double(), optimizer=optimizer, clip=0.5, scheduler=SCHEDULES["of each group"])
    result, said = run(given, subnets=3, epochs=4, data=data)
    assert result.engine == "separate"
    assert [text for text in said if text.startswith("a stack of sub-networks failed (")]
    assert [text for text in said if "register_buffer" in text]  # the steps that it counts are not handed over
    expected = alone(given, subnets=3, epochs=4, data=data)
    assert distance(expected, result.subnets) < EXACT
    assert int(result.subnets[0].norm.num_batches_tracked) == 16


def test_breakage_it_forgets_what_its_optimizer_remembers(monkeypatch):
    given = task(subnet=lambda i: Late(8).double(), optimizer=lambda p: torch.optim.Adam(p, lr=0.02))
    monkeypatch.setattr("cooptim_lab.subnets.trainer.put", lambda *given: None)
    expected = alone(given, subnets=3, epochs=4)
    assert distance(expected, run(given, subnets=3, epochs=4)[0].subnets) > 1e-3


@pytest.mark.parametrize("engine", ["auto", "stacked"])
def test_what_fails_on_a_whole_batch_is_seen_before_the_clock(engine):
    given = task(subnet=lambda i: Early().double())
    result, said = run(given, engine=engine)
    assert result.engine == "separate"
    assert not [text for text in said if "failed" in text or "register_buffer" in text]
    assert distance(alone(given), result.subnets) < EXACT


class Reading(nn.Module):
    """Side by side in one, its networks would branch by the values of all."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, 3)

    def forward(self, x):
        h = self.first(x.view(-1, 1, 8, 8))
        return self.last((h.relu() if h.mean().item() > 0.0 else h.tanh()).flatten(1))


def test_networks_that_branch_by_values_are_not_put_side_by_side():
    given = task(subnet=lambda i: Reading().double())
    result, _ = run(given, subnets=3)
    assert result.engine == "separate"
    assert distance(alone(given, subnets=3), result.subnets) < EXACT


def test_a_loss_that_is_a_constant_for_some_touches_only_the_others():
    """As of triplets where a batch has none."""

    def loss(outputs, targets):
        if (targets == 1).sum() < 7:
            return torch.zeros((), dtype=outputs.dtype, requires_grad=True)
        return functional.cross_entropy(outputs, targets)

    given = task(loss=loss, optimizer=DECAYING["AdamW"])
    with pytest.MonkeyPatch.context() as patch:  # that it divides by something else in some batches is not the matter
        patch.setattr("cooptim_lab.preparing.examination.find_reduction", lambda *given: Reduction(MEAN))
        for data in ("all", "bootstrap"):
            result, _ = run(given, data=data, epochs=4)
            assert distance(alone(given, data=data, epochs=4), result.subnets) < EXACT


# Losses, and what is said of outputs.


def test_diversity_is_of_two_losses_only():
    squares = task(data=(X, X[:, :10]))
    assert run(squares)[0].diversity > 0
    assert run(task())[0].diversity > 0
    assert (
        run(task(loss=nn.CrossEntropyLoss(weight=torch.linspace(1, 2, 10, dtype=torch.float64))))[0].diversity is None
    )
    assert run(task(data=(X, X[:, :10]), loss=nn.L1Loss()))[0].diversity is None


def test_a_vote_needs_classes_along_the_second_axis():
    model = nn.Sequential(nn.Linear(64, 8), nn.Linear(8, 1)).double()
    loss = nn.BCEWithLogitsLoss()
    given = task(
        model=model, data=(X, Y.clamp(max=1)), loss=lambda outputs, y: loss(outputs.squeeze(1), y.to(outputs.dtype))
    )
    with refused("fuse = vote", "second axis", "fuse mean"):
        run(given, fuse="vote")
    assert run(given)[0].metric_name == "accuracy"


def test_taken_apart_they_are_dealt_anew_as_before():
    """Each has what it had: a stack that fails between two deals gives what one after the other gives."""
    given = task(model=Late(6).double(), optimizer=DECAYING["AdamW"])
    options = {"split": "neurons", "resplit": 1, "fuse": "merge", "epochs": 4, "subnets": 4}
    together, said = run(given, **options)
    separate, _ = run(given, **{**options, "engine": "separate"})
    assert [text for text in said if "go on one after the other" in text]
    assert distance([together.network], [separate.network]) < EXACT


def test_auto_goes_on_too():
    given = task(subnet=lambda i: Late(8).double())
    result, _ = run(given, engine="auto", subnets=3, epochs=4)
    assert result.engine == "separate"
    assert distance(alone(given, subnets=3, epochs=4), result.subnets) < EXACT
