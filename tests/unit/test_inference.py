"""Answers of a trained network in smaller numbers: measured beside float32, scored, or said why not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cooptim_lab import Task
from cooptim_lab.codesign.answers import Answers
from cooptim_lab.comm.context import Context
from cooptim_lab.inference import measure_inference
from cooptim_lab.training.spec import Baseline
from tests.support import SoloComm

pytestmark = pytest.mark.usefixtures("one_thread")

X = np.random.default_rng(0).normal(size=(200, 6)).astype("float32")
Y = (X[:, 0] > X[:, 1]).astype("int64")
IMAGES = np.random.default_rng(0).normal(size=(200, 1, 6, 6)).astype("float32")


def perceptron():
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2))


def convolutions():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 4), nn.Flatten())


class Explodes(nn.Module):
    """Beyond bf16 and int8: what it computes in these is not finite."""

    def __init__(self):
        super().__init__()
        self.inner = perceptron()

    def forward(self, x):
        out = self.inner(x)
        return out if self.inner[0].__class__ is nn.Linear and self.inner[0].weight.dtype == torch.float32 else out / 0


def measured(model, x=X, plan=""):
    spec = Baseline(epochs=5, batch=32, plan=plan)
    context = Context(SoloComm(), lambda *events: None, lambda: False, threads=1)
    task = Task(model=model, data=(x, Y), optimizer=lambda ps: torch.optim.Adam(ps, 0.01), name="test")
    rows = measure_inference(context, task, spec, rounds=3)
    return {row["numbers"]: Answers.from_row(row) for row in rows}


@pytest.mark.parametrize("plan", ["", "narrow=0.5", "prune=0.5", "subnets=2"])
def test_both_kinds_are_timed_and_scored(plan):
    found = measured(perceptron, plan=plan)
    assert list(found) == ["bf16", "int8"]
    for numbers, each in found.items():
        assert len(each.ratios) == 3 and all(ratio > 0 for ratio in each.ratios)
        assert each.metric == pytest.approx(each.before, abs=0.1) and each.metric_name == "accuracy"
        assert each.sentence.startswith(f"answers in {numbers}: P = ")
        assert "of float32's time" in each.sentence and "held-out accuracy" in each.sentence


def test_int8_is_computed_in_int8(monkeypatch):
    """Of a network whose weights int8 cannot tell apart, the score says so: what is scored is what was timed."""
    real = torch.ao.quantization.quantize_dynamic

    def coarse(network, kinds, dtype):
        for p in network.parameters():
            p.data.zero_()
        return real(network, kinds, dtype=dtype)

    plain = measured(perceptron)["int8"]
    monkeypatch.setattr(torch.ao.quantization, "quantize_dynamic", coarse)
    blind = measured(perceptron)["int8"]
    assert blind.before == plain.before > 0.8 and blind.metric < 0.7


def test_where_there_is_nothing_to_compute_in_int8():
    found = measured(convolutions, IMAGES)
    assert "no layer that torch computes in int8" in found["int8"].sentence and not found["int8"].ratios
    assert found["bf16"].ratios


def test_of_double_precision_neither():
    found = measured(lambda: perceptron().double())
    assert all("not float32" in each.sentence and each.figure is None for each in found.values())


def test_answers_that_are_not_finite_are_no_result():
    found = measured(Explodes)
    assert {each.why for each in found.values()} == {"ValueError: its answers are not finite"}
