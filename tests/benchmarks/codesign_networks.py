"""The networks of the benchmark on co-design, by name."""

from __future__ import annotations

import torch
from torch import nn


def perceptron() -> nn.Module:
    """64-512-512-10."""
    return nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


def convolutions() -> nn.Module:
    """On 8 × 8 images."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)),
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * 16, 10),
    )  # fmt: skip


class Attention(nn.Module):
    """A row of an image is a token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(8, 32), nn.Parameter(0.02 * torch.randn(8, 32))
        layer = nn.TransformerEncoderLayer(32, 2, 64, dropout=0.0, batch_first=True)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2), nn.Linear(8 * 32, 10)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x) + self.place).flatten(1))


NETWORKS = {"README's perceptron": perceptron, "CNN with BatchNorm": convolutions, "transformer": Attention}
