"""Where sub-networks train. What needs a GPU is skipped without one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cooptim_lab import Task
from cooptim_lab.comm.context import Context
from cooptim_lab.programs import train_subnets
from cooptim_lab.subnets.engines.captured import CapturedStep
from cooptim_lab.subnets.engines.device import choose_device
from cooptim_lab.subnets.states import state_of
from cooptim_lab.training.spec import Subnets
from tests.support import SoloComm, refused

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")

X = torch.randn(90, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > X[:, 1]).long() + (X[:, 2] > 0)


def perceptron():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def normed():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double()


def train(model, **options):
    task = Task(model=model, data=(X, Y), name="test")
    spec = Subnets(**{"subnets": 4, "epochs": 4, "batch": 16, "engine": "stacked", **options})
    return train_subnets(Context(SoloComm(), lambda *events: None, lambda: False, threads=1), task, spec)


@without_gpu
def test_without_one_auto_is_the_cpu_and_cuda_is_refused():
    assert choose_device("auto", 0) == choose_device("cpu", 0) == torch.device("cpu")
    with refused("device = cuda", "give cpu"):
        choose_device("cuda", 0)


@needs_gpu
@pytest.mark.parametrize("model", [perceptron, normed])
@pytest.mark.parametrize("options", [{}, {"data": "bootstrap"}, {"split": "neurons", "resplit": 2, "fuse": "merge"}])
def test_on_a_gpu_they_become_what_they_become_on_the_cpu(model, options):
    here, there = train(model, device="cpu", **options), train(model, device="cuda", **options)
    for one, other in zip(state_of(here.network).values(), state_of(there.network).values(), strict=True):
        assert other.device.type == "cpu"
        assert torch.allclose(one, other, atol=1e-8)


@needs_gpu
def test_a_captured_step_is_the_step():
    def steps(wrap):
        weight = torch.ones(5, dtype=torch.float64, device="cuda")

        def step(rows):
            weight.mul_(0.9).add_(rows.sum())
            return weight.sum().reshape(1)

        step = wrap(step)
        losses = [step(torch.arange(i, i + size, device="cuda")) for i, size in enumerate([3] * 8 + [2] + [3] * 4)]
        return torch.stack(losses), weight

    plain, captured = steps(lambda step: step), steps(lambda step: CapturedStep(step, torch.device("cuda", 0)))
    assert torch.equal(plain[0], captured[0])
    assert torch.equal(plain[1], captured[1])


@needs_gpu
def test_a_loss_that_looks_at_its_values_is_refused():
    def loss(outputs, targets):
        value = nn.functional.cross_entropy(outputs, targets)
        return value if value.item() < 1e9 else value * 0

    task = Task(model=perceptron, data=(X, Y), loss=loss)
    with refused("cannot be captured", "give cpu"):
        train_subnets(
            Context(SoloComm(), lambda *events: None, lambda: False, threads=1),
            task,
            Subnets(subnets=4, epochs=4, batch=16, engine="stacked", device="cuda"),
        )
