"""Networks of every make that a user may bring, in float64, small; with a batch for each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class Convolutional(nn.Module):
    """conv-bn-relu twice, pooled and flattened."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width)
        self.second, self.norm2 = nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width)
        self.last = nn.Linear(2 * width * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.first(x.view(-1, 1, 8, 8))))
        x = functional.max_pool2d(functional.relu(self.norm2(self.second(x))), 2)
        return self.last(x.flatten(1))


class Residual(nn.Module):
    """Sums, and a concatenation of what is hidden with what is not."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.up, self.down = nn.Linear(64, 16), nn.Linear(16, 24), nn.Linear(24, 16)
        self.last = nn.Linear(16 + 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.into(x))
        h = h + self.down(functional.relu(self.up(h)))
        return self.last(torch.cat([h, x], 1))


class Transformer(nn.Module):
    """A small classifier of the 8 rows of an image, with torch's own encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(8, 16), nn.Parameter(torch.randn(8, 16) / 4)
        self.encoder = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
        self.last = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.encoder(self.embed(x.view(-1, 8, 8)) + self.place).mean(1))


class Words(nn.Module):
    """Attention written out, over embedded words."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.embed, self.norm = heads, nn.Embedding(20, width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.last = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, length, width = x.shape
        z = self.norm(x)
        q, k, v = (f(z).view(batch, length, self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        return self.last((x + self.out(mixed)).mean(1))


class Depthwise(nn.Module):
    """A convolution per channel, norms over groups of channels, a slope for each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.each = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm, self.slope, self.mix = nn.GroupNorm(4, 8), nn.PReLU(8), nn.Conv2d(8, 12, 1)
        self.last = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.mix(self.slope(self.norm(self.each(self.first(x.view(-1, 1, 8, 8)))))).mean((2, 3)))


class Sequence(nn.Module):
    """Conv1d with BatchNorm1d, flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv1d(1, 6, 5), nn.BatchNorm1d(6), nn.Linear(6 * 60, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.norm(self.first(x[:, None]))).flatten(1))


def perceptron() -> nn.Module:
    layers = [nn.Linear(64, 12), nn.ReLU(), nn.Sequential(nn.Linear(12, 10), nn.Tanh()), nn.Linear(10, 10)]
    return nn.Sequential(*layers)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "perceptron": perceptron,
    "convolutional": Convolutional,
    "residual": Residual,
    "depthwise": Depthwise,
    "sequence": Sequence,
    "transformer": Transformer,
    "words": Words,
}
MIXING = ("transformer", "words")
"""They normalise over all units of a layer together."""


def make(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """A network in evaluation mode that has seen some data, and a batch."""
    torch.manual_seed(seed)
    model = NETWORKS[name]().double()
    x = torch.randint(20, (6, 5)) if name == "words" else torch.randn(6, 64, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(3):
            model(x)  # BatchNorm's statistics become something
    return model.eval(), x
