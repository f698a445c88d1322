"""Small real data that comes with a dependency, as tasks that are built where they train.

The data and the model are made by functions of this module, so a built-in task costs the kernel nothing: no torch, no
scikit-learn, no bytes to send.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..task import Task

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


def digits() -> Task:
    """The built-in task: 1,797 handwritten digits of 8×8 pixels (scikit-learn's), a 64-64-64-10 perceptron, Adam."""
    return Task(model=digits_network, data=digits_rows, optimizer=digits_optimizer, name="digits")


def digits_rows() -> tuple[np.ndarray, np.ndarray]:
    """X (1797, 64) float32 in [0, 1], y (1797,) in 0..9."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return (bunch.data / 16).astype("float32"), bunch.target


def digits_network() -> nn.Module:
    """A perceptron with two hidden layers of 64 units."""
    from torch import nn

    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def digits_optimizer(parameters: Any) -> Any:
    """Adam at a rate that suits narrow networks on so little data."""
    from torch.optim import Adam

    return Adam(parameters, lr=5e-3)
