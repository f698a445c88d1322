"""What a run leaves: figures that are JSON, and a network that is opened on first use."""

from __future__ import annotations

import json

import cloudpickle
import pytest
import torch
from torch import nn

from cooptim_lab import Result


@pytest.fixture
def result():
    return Result(
        way="subnets", task="digits", options={"subnets": 2}, state="done", workers=2, threads=1, seconds=0.5, steps=10,
        loss=0.25, metric=0.75, metric_name="accuracy", parameters=9, subnet_scores=(0.5, 0.625), diversity=0.125,
        network_bytes=cloudpickle.dumps((nn.Linear(2, 3).eval(), ())),
    )  # fmt: skip


def test_the_summary_is_all_figures_as_a_json_object(result):
    summary = result.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert (summary["metric"], summary["subnet_scores"], summary["diversity"]) == (0.75, [0.5, 0.625], 0.125)
    assert "network_bytes" not in summary


def test_the_network_is_opened_once(result):
    assert result.network is result.network
    assert result.network(torch.zeros(4, 2)).shape == (4, 3)
    assert not result.network.training


def test_it_is_shown_without_the_bytes(result):
    assert "network_bytes" not in repr(result)
