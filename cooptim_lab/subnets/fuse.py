"""N trained subnets become one network again. Four ways, each a plain `nn.Module` that saves, loads and exports.

- `mean`: y = f(x) = 1/N Σ f_i(x), of outputs (logits, for classes).
- `vote`: each subnet has one vote for a class.
- `soup`: the mean of the *weights*: right for networks that share a training, a lesson for those that do not.
- `merge`: back into the original network, each part in its own place. Of replicas that is block-diagonal, and equals
  their mean; of the network's own neurons it is the network itself, trained in parts.

How they were trained, and on which ranks, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from ..preparing.building import copied
from ..preparing.prepare import Prepared
from ..preparing.reduction import MEAN
from .split import Division, of_mixed
from .states import mean_of, state_of


class MeanFusion(nn.Module):
    """The fused network y = f(x) = 1/N Σ f_i(x): the mean of the subnets' outputs (logits, for classes)."""

    def __init__(self, subnets: Iterable[nn.Module]) -> None:
        super().__init__()
        self.subnets = nn.ModuleList(subnets)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs of the subnets' own shape for a batch x (batch, ...)."""
        total = self.subnets[0](x)
        for subnet in self.subnets[1:]:
            total = total + subnet(x)
        return total / len(self.subnets)


class VoteFusion(nn.Module):
    """A vote of the subnets: the logarithm of each class's share of N + 1 votes.

    Every subnet votes for its first choice; one more vote is divided as the subnets' mean probabilities, so that ties
    are broken, and no class has none.
    """

    def __init__(self, subnets: Iterable[nn.Module]) -> None:
        super().__init__()
        self.subnets = nn.ModuleList(subnets)

    def forward(self, x: Tensor) -> Tensor:
        """Log shares (batch, classes, ...) for a batch x (batch, ...)."""
        outputs = torch.stack([subnet(x) for subnet in self.subnets])  # (N, batch, classes, ...)
        classes = torch.arange(outputs.shape[2], device=x.device).view(-1, *[1] * (outputs.dim() - 3))
        votes = (outputs.argmax(2, keepdim=True) == classes).to(outputs.dtype).sum(0)
        return ((votes + outputs.softmax(2).mean(0)) / (len(self.subnets) + 1)).log()


def fuse_mean(subnets: Sequence[nn.Module], division: Division, which: Sequence[int]) -> nn.Module:
    return MeanFusion(subnets)


def fuse_vote(subnets: Sequence[nn.Module], division: Division, which: Sequence[int]) -> nn.Module:
    return VoteFusion(subnets)


def check_alike(subnets: Sequence[nn.Module]) -> None:
    """Refuse a soup of subnets that are not.

    Raises
    ------
    InputError
    """
    shapes = [{name: value.shape for name, value in state_of(subnet).items()} for subnet in subnets]
    if any(shape != shapes[0] for shape in shapes):
        raise InputError("fuse = soup averages weights, and the subnets are not equally wide: give an N that divides")


def check_can_merge(division: Division) -> None:
    """Refuse to merge subnets that have no place in the network.

    Raises
    ------
    InputError
    """
    if division.units is None:
        raise InputError("fuse = merge needs subnets that were cut from the model: leave subnet(i) out, or fuse mean")
    if division.mixed:
        raise InputError(f"fuse = merge: {of_mixed(division.mixed)}; fuse mean")


def fuse_soup(subnets: Sequence[nn.Module], division: Division, which: Sequence[int]) -> nn.Module:
    """The network whose weights are the mean of the subnets'.

    Raises
    ------
    InputError
        When the subnets are not all alike.
    """
    check_alike(subnets)
    states = [state_of(subnet) for subnet in subnets]
    soup = copied("a sub-network", subnets[0])
    with torch.no_grad():
        for name, value in state_of(soup).items():
            value.copy_(mean_of(states, name))
    return soup


def fuse_merge(subnets: Sequence[nn.Module], division: Division, which: Sequence[int]) -> nn.Module:
    """The original network with the subnets' weights in the places of their units.

    Where the subnets are fresh, what lies between units of different ones is zero, and what leads to the outputs is
    divided by their number: the network's output is then the mean of theirs.

    Raises
    ------
    InputError
        When the task's own `subnet(i)` made the subnets: there is no place for them in the network.
    """
    check_can_merge(division)
    assert division.units is not None
    merged = copied("the model", division.model)
    whole, states = state_of(merged), [state_of(subnet) for subnet in subnets]
    parts = [division.parts[i] for i in which]
    if division.is_fresh:
        whole = {name: torch.zeros_like(value) for name, value in whole.items()}
    joined = division.units.join(whole, states, parts)
    with torch.no_grad():
        for name, value in state_of(merged).items():
            value.copy_(joined[name])
            hidden = division.units.leads_out(name)
            if division.is_fresh and hidden is not None:
                value[:, hidden] /= len(subnets)
    return merged


FUSIONS: dict[str, Callable[[Sequence[nn.Module], Division, Sequence[int]], nn.Module]] = {
    "mean": fuse_mean,
    "vote": fuse_vote,
    "soup": fuse_soup,
    "merge": fuse_merge,
}
"""(subnets, how they were divided, their numbers) -> one network; the subnets are not changed."""


def diversity_of(prepared: Prepared, outputs: Tensor) -> float | None:
    """The diversity of outputs (N, rows, ...) by the task's loss; None where it is none of the two that have one."""
    loss, is_mean = prepared.loss_function, prepared.examined.reduction.kind == MEAN
    if is_mean and (loss is functional.mse_loss or type(loss) is nn.MSELoss):
        return diversity(outputs)
    is_logits = loss is functional.cross_entropy or type(loss) is nn.CrossEntropyLoss
    if is_mean and is_logits and prepared.is_classification:
        return diversity(outputs, is_classification=True)
    return None


def diversity(outputs: Tensor, *, is_classification: bool = False) -> float:
    """By how much fusing by the mean lowers the loss: loss(ensemble) = mean loss of the subnets − diversity.

    For the squared error it is the mean squared distance of the subnets' outputs (N, batch, ...) from their mean (Krogh
    & Vedelsby, "Neural network ensembles, cross validation, and active learning", NIPS 7, 1995). For cross-entropy on
    the mean of logits (N, batch, classes, ...) it is mean_i logsumexp(z_i) − logsumexp(mean z), at least 0 because
    logsumexp is convex; it does not depend on the labels, whose logit is averaged alike on both sides.
    """
    with torch.no_grad():
        if is_classification:
            return float((outputs.logsumexp(2).mean(0) - outputs.mean(0).logsumexp(1)).mean())
        return float((outputs - outputs.mean(0)).square().mean())
