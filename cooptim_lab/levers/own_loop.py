"""A plan in a loop of the user's own, outside the kit: what it changes of a network, its optimizer, its rows."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .plan import Plan

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Applied:
    """A plan that was applied: enter it for the time of training, `with applied: ...`.

    Attributes
    ----------
    network, optimizer
        To be trained with, in place of those that were given.
    batch
        Rows of a step; None where the plan leaves them as they are.
    """

    def __init__(self, plan: Plan, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for lever in plan.levers:
            if not lever.is_setting:
                raise InputError(
                    f"plan = {plan}: {lever.name} makes another network, or another way of training it, which a loop "
                    f'cannot be given; take plan.settings, or let the kit train: train(task, plan="{plan}")'
                )
        self._plan, self._stack = plan, ExitStack()
        self.network = plan.of_network(network)
        self.optimizer = optimizer
        for lever in plan.levers:
            lever.change_optimizer(optimizer)
        self.batch: int | None = plan.options.get("batch")

    def __repr__(self) -> str:
        """What a loop still has to do itself, beside entering it."""
        batch = "" if self.batch is None else f", rows of a step: {self.batch} (take them yourself)"
        return f"{self._plan or 'the default'}, applied to {type(self.network).__name__}{batch}"

    def __enter__(self) -> Applied:
        self._stack.enter_context(self._plan.around())
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def rows(self, x: Tensor) -> Tensor:
        """Rows of X, (rows, ...), in the form in which the network takes them now."""
        return self._plan.of_rows(x)

    def forward(self) -> AbstractContextManager[Any]:
        """To be entered for each forward pass and its loss."""
        return self._plan.forward()

    def give_back(self) -> nn.Module:
        """The network after training, plain again."""
        return self._plan.give_back(self.network)


def apply(plan: Plan | str, network: nn.Module, optimizer: torch.optim.Optimizer) -> Applied:
    """Apply a plan to a network and its optimizer, for a loop of your own.

    Parameters
    ----------
    plan
        What `tune` has found, or its text.
    network, optimizer
        Are changed in place, as far as that goes.

    Raises
    ------
    InputError
        For a lever that is no setting of a loop: sub-networks, shards, a narrower network.

    Examples
    --------
    ::

        applied = apply("batch=256,lr=4,fused,threads=1", network, optimizer)
        with applied:
            for x, y in batches_of(applied.batch):
                applied.optimizer.zero_grad()
                with applied.forward():
                    value = loss(applied.network(applied.rows(x)), y)
                value.backward()
                applied.optimizer.step()
        network = applied.give_back()
    """
    return Applied(Plan.read(plan), network, optimizer)
