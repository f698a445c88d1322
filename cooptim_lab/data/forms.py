"""The dtypes in which a network takes its data: tried, not guessed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Form:
    """The dtypes in which a model takes its data."""

    floating: torch.dtype
    takes_integers: bool

    def of_x(self, given_floating: bool) -> torch.dtype:
        """The dtype of X, by whether it was given as floating-point numbers."""
        return torch.int64 if self.takes_integers and not given_floating else self.floating

    def of_y(self, given_floating: bool) -> torch.dtype:
        """The dtype of y, likewise: whole numbers are classes."""
        return self.floating if given_floating else torch.int64


def find_form(model: nn.Module, sample: Tensor) -> Form:
    """How a network takes rows like `sample` (rows, ...), which are as they were given.

    Floats go in the dtype of its first floating-point parameter. Whole numbers may be meant as numbers (pixels) or as
    names (words, categories): the network is asked which of the two it takes. Where it takes both, they are names for
    one that has an embedding, and numbers for any other.
    """
    floating = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    embeds = any(isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for m in model.modules())
    if sample.is_floating_point():
        return Form(floating, embeds)
    for as_names in (embeds, not embeds):
        if _takes(model, sample.to(torch.int64 if as_names else floating)):
            return Form(floating, as_names)
    return Form(floating, embeds)


def _takes(model: nn.Module, sample: Tensor) -> bool:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model(sample)
    except Exception:  # noqa: BLE001 - whatever it raises, it does not take them
        return False
    finally:
        for module, mode in modes:
            module.training = mode
    return True
