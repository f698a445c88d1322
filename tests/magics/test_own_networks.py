"""Networks that a notebook defines, split and fused every way, from a cell."""

from __future__ import annotations

import itertools

import pytest

from cooptim_lab.runs import store
from cooptim_lab.subnets.fuse import FUSIONS

pytestmark = pytest.mark.mpi

START = """
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

digits = load_digits()
optimizer = lambda parameters: torch.optim.Adam(parameters, lr=0.01)
data = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
"""
NETWORKS = {
    "perceptron": """
def model():
    layers = [nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)]
    return nn.Sequential(*layers)
""",
    "CNN with BatchNorm": """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.norm2 = nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.last = nn.Linear(16 * 16, 10)

    def forward(self, x):
        x = torch.relu(self.norm1(self.first(x.view(-1, 1, 8, 8))))
        x = functional.max_pool2d(torch.relu(self.norm2(self.second(x))), 2)
        return self.last(x.flatten(1))

model = Net
""",
    "residual network": """
class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.up, self.down = nn.BatchNorm1d(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(x))))

def model():
    return nn.Sequential(nn.Linear(64, 16), Block(16), Block(16), nn.Linear(16, 10))
""",
    "transformer classifier": """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Linear(8, 16), nn.Parameter(torch.randn(8, 16) / 4)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.1, batch_first=True)
        self.last = nn.Linear(16, 10)

    def forward(self, x):
        return self.last(self.layer(self.embed(x.view(-1, 8, 8)) + self.place).mean(1))

model = Net
""",
}


@pytest.mark.parametrize("network", NETWORKS)
def test_every_split_and_fusion(notebook, ranks, tmp_path, monkeypatch, network):
    ranks.start()
    monkeypatch.setenv(store.PLACE, str(tmp_path))
    notebook.run(f"%%cooptim task\n{START}{NETWORKS[network]}")
    for split, fuse in itertools.product(("replicas", "neurons"), FUSIONS):
        resplit = " --resplit 1" if split == "neurons" else ""
        line = f"%cooptim subnets -n 2 --workers 2 --epochs 2 --split {split}{resplit} --fuse {fuse} -o run"
        outcome = notebook.run(line)
        result = notebook.names["run"].result
        assert (result.state, result.metric_name, len(result.subnets)) == ("done", "accuracy", 2), line
        assert "held-out accuracy" in outcome.stdout
        assert 0 <= result.metric <= 1
        if fuse == "mean":
            assert result.metric > 0.3, line  # more than chance after two epochs
