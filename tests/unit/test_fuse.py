"""The fused network is the mean of its subnets, and what that is worth: the ambiguity decomposition."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from cooptim_lab.subnets.fuse import MeanFusion, diversity

X = torch.randn(50, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
CLASSES = torch.arange(50) % 3


@pytest.fixture
def subnets():
    torch.manual_seed(0)
    return [nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 3)).double() for width in (2, 3, 5, 8)]


def outputs_of(subnets):
    with torch.no_grad():
        return torch.stack([subnet(X) for subnet in subnets])


def test_the_fused_network_gives_the_mean_of_the_outputs(subnets):
    assert (MeanFusion(subnets)(X) - outputs_of(subnets).mean(0)).abs().max() < 1e-15
    assert torch.equal(MeanFusion(subnets[:1])(X), subnets[0](X))


def test_it_is_one_network_of_all_their_parameters(subnets):
    assert len(list(MeanFusion(iter(subnets)).parameters())) == 16
    assert not MeanFusion(subnets).eval().subnets[0].training


@torch.no_grad()
def test_mse_of_the_ensemble_is_the_mean_mse_less_the_diversity(subnets):
    outputs, targets = outputs_of(subnets), X[:, :3]
    ensemble = float(functional.mse_loss(MeanFusion(subnets)(X), targets))
    mean = sum(float(functional.mse_loss(each, targets)) for each in outputs) / 4
    assert abs(ensemble - (mean - diversity(outputs))) < 1e-12
    assert diversity(outputs) > 1e-2
    # Breakage: the distance from any other point than the mean does not do.
    assert abs(ensemble - (mean - float((outputs - outputs[0]).square().mean()))) > 1e-2


def test_equal_subnets_have_no_diversity(subnets):
    assert diversity(outputs_of([subnets[0]] * 3)) < 1e-30


def test_cross_entropy_of_the_mean_logits_is_at_most_the_mean_cross_entropy(subnets):
    outputs = outputs_of(subnets)
    ensemble = functional.cross_entropy(outputs.mean(0), CLASSES)
    assert ensemble < torch.stack([functional.cross_entropy(each, CLASSES) for each in outputs]).mean()
