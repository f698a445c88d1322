"""N subnets trained as one batched program: their parameters are stacked, every operation runs once for all of them.

Subnets of the same architecture make one stack; whatever is different makes a stack of its own, so any mixture trains.
Four engines, from the fastest to the most general:

- `grouped`: perceptrons, one batched matrix product per layer (grouped.py);
- `channels`: networks of convolutions, side by side in the channels of one (channels.py);
- `vmap`: any other module, by `torch.func`, its buffers (BatchNorm's statistics) stacked too (stacks.py);
- `separate`: one module after the other (stacks.py).

Which of them are to be trained together is decided here; how a step is made is not known.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import cloudpickle
from torch import nn

from ...preparing.hooks import hooked
from ..states import state_of
from .channels import ChannelStack, PlainChannelStack
from .grouped import GroupedStack, is_perceptron
from .stacks import SingleStack, Stack, VmapStack
from .trying import Trial

MOST = 16
"""Subnets in one stack: with more, what a step works on no longer fits a core's cache (measured: 256 perceptrons of
width 64 in one stack took 1.5 times as long for each as 16 did)."""


def stack(
    subnets: Sequence[nn.Module], *, separate: bool = False, trial: Trial | None = None, is_own: bool = False
) -> list[Stack]:
    """Gather subnets of one architecture into stacks (see the module's docstring). The subnets are not changed.

    Parameters
    ----------
    separate
        Each by itself.
    trial
        A stack that does not do with its batches what the modules do is not made.
    is_own
        Whether each subnet is to get a batch of its own.
    """
    if separate:
        return [SingleStack([subnet], [i]) for i, subnet in enumerate(subnets)]
    groups: dict[object, list[int]] = {}
    for i, subnet in enumerate(subnets):
        groups.setdefault(_signature(subnet), []).append(i)
    stacks: list[Stack] = []
    for signature, members in ((signature, some) for signature, of in groups.items() for some in _batches(of)):
        chosen = [subnets[i] for i in members]
        kinds: list[type[Stack]] = [GroupedStack] if is_perceptron(chosen[0]) else [VmapStack]
        if not (is_perceptron(chosen[0]) or is_own):
            kinds = [ChannelStack, PlainChannelStack, *kinds]
        kind = None
        if len(members) > 1:
            kind = kinds[-1] if trial is None else trial.choose(signature, kinds, chosen)
        if kind is None:
            stacks += [SingleStack([subnets[i]], [i]) for i in members]
        else:
            stacks.append(kind(chosen, members))
    return stacks


def reaches_all(subnet: nn.Module, trial: Trial) -> bool:
    """Whether each parameter of such a subnet gets a gradient in every step."""
    return trial.reaches_all(_signature(subnet), subnet)


def refuse(subnet: nn.Module, trial: Trial) -> None:
    """Subnets of its architecture have failed as a stack: none is to be made of them again."""
    trial.refuse(_signature(subnet))


def _batches(members: list[int]) -> list[list[int]]:
    """As few parts of at most `MOST` as there can be, of about the same size."""
    count = -(-len(members) // MOST)
    bounds = [len(members) * i // count for i in range(count + 1)]
    return [members[start:end] for start, end in itertools.pairwise(bounds)]


def _signature(subnet: nn.Module) -> object:
    """Equal for subnets that may share a program: same layers, shapes and settings, only other weights.

    Hooks (of modules, and on gradients), tied parameters and settings that cannot be compared make a subnet equal to
    none but itself.
    """
    if len(list(subnet.parameters())) < len(list(subnet.named_parameters(remove_duplicate=False))) or hooked(subnet):
        return object()
    settings = []
    for module in subnet.modules():
        hooks = [value for name, value in vars(module).items() if name.endswith("_hooks") and value]
        if hooks:
            return object()
        settings.append((type(module), {n: v for n, v in vars(module).items() if n not in _MODULE_STATE}))
    try:
        compared = cloudpickle.dumps(settings)
    except Exception:  # noqa: BLE001 - a user's setting may refuse in any way; then it is not shared
        return object()
    trained = {name for name, p in subnet.named_parameters() if p.requires_grad}
    shapes = tuple((name, tuple(t.shape), t.dtype, name in trained) for name, t in state_of(subnet).items())
    return repr(subnet), shapes, compared


_MODULE_STATE = frozenset(vars(nn.Module()))
"""What every module has: its parameters, hooks and the like, which are compared by themselves."""
