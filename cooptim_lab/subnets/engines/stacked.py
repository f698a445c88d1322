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

import copy
import itertools
from collections.abc import Sequence

import cloudpickle
import torch
from torch import Tensor, nn

from ..states import state_of
from .channels import ChannelStack, PlainChannelStack
from .grouped import GroupedStack, is_perceptron
from .stacks import SingleStack, Stack, VmapStack

MOST = 16
"""Subnets in one stack: with more, what a step works on no longer fits a core's cache (measured: 256 perceptrons of
width 64 in one stack took 1.5 times as long for each as 16 did)."""
TOLERANCE = 1e-4
"""By so much may a stack's outputs and buffers differ from those of its modules after one batch."""


def stack(
    subnets: Sequence[nn.Module], *, separate: bool = False, sample: Tensor | None = None, is_own: bool = False
) -> list[Stack]:
    """Gather subnets of one architecture into stacks (see the module's docstring). The subnets are not changed.

    Parameters
    ----------
    separate
        Each by itself.
    sample
        A batch (batch, ...): a stack that does not do with it what its modules do is not made.
    is_own
        Whether each subnet is to get a batch of its own.
    """
    groups: dict[object, list[int]] = {}
    for i, subnet in enumerate(subnets):
        groups.setdefault(i if separate else _signature(subnet), []).append(i)
    stacks: list[Stack] = []
    for members in itertools.chain.from_iterable(map(_batches, groups.values())):
        chosen = [subnets[i] for i in members]
        kinds: list[type[Stack]] = [GroupedStack] if is_perceptron(chosen[0]) else [VmapStack]
        if not (is_perceptron(chosen[0]) or is_own):
            kinds = [ChannelStack, PlainChannelStack, *kinds]
        kind = next((kind for kind in kinds if len(members) > 1 and _can_run(kind, chosen, sample)), None)
        if kind is None:
            stacks += [SingleStack([subnets[i]], [i]) for i in members]
        else:
            stacks.append(kind(chosen, members))
    return stacks


def _batches(members: list[int]) -> list[list[int]]:
    """As few parts of at most `MOST` as there can be, of about the same size."""
    count = -(-len(members) // MOST)
    bounds = [len(members) * i // count for i in range(count + 1)]
    return [members[start:end] for start, end in itertools.pairwise(bounds)]


def _can_run(kind: type[Stack], subnets: Sequence[nn.Module], sample: Tensor | None) -> bool:
    """Whether a stack does as its modules do: not where one branches on values, replaces buffers or mixes channels."""
    if sample is None:
        return not issubclass(kind, ChannelStack)
    alone = [copy.deepcopy(subnets[0]), copy.deepcopy(subnets[-1])]
    with torch.no_grad(), torch.random.fork_rng():
        try:
            together = kind(alone, [0, 1])
            together(sample.clone())
        except Exception:  # noqa: BLE001 - what a stack cannot follow may raise anything
            return False
        for module, state in zip(alone, together.states(), strict=True):
            module(sample.clone())
            if not all(_is_close(b, state[name]) for name, b in module.named_buffers()):
                return False
        # What runs under vmap is their own forward; in evaluation mode it may call kernels that vmap has no rule for.
        return issubclass(kind, VmapStack) or _agrees(kind, [module.eval() for module in alone], sample)


def _agrees(kind: type[Stack], modules: Sequence[nn.Module], sample: Tensor) -> bool:
    """Whether the outputs are those of each alone; without dropout, which would hide what is wrong."""
    outputs = kind(modules, [0, 1])(sample.clone())
    return all(_is_close(module(sample.clone()), output) for module, output in zip(modules, outputs, strict=True))


def _is_close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=TOLERANCE, atol=TOLERANCE)


def _signature(subnet: nn.Module) -> object:
    """Equal for subnets that may share a program: same layers, shapes and settings, only other weights.

    Hooks, tied parameters and settings that cannot be compared make a subnet equal to none but itself.
    """
    if len(list(subnet.parameters())) < len(list(subnet.named_parameters(remove_duplicate=False))):
        return id(subnet)
    settings = []
    for module in subnet.modules():
        hooks = [value for name, value in vars(module).items() if name.endswith("_hooks") and value]
        if hooks:
            return id(subnet)
        settings.append((type(module), {n: v for n, v in vars(module).items() if n not in _MODULE_STATE}))
    try:
        compared = cloudpickle.dumps(settings)
    except Exception:  # noqa: BLE001 - a user's setting may refuse in any way; then it is not shared
        return id(subnet)
    trained = {name for name, p in subnet.named_parameters() if p.requires_grad}
    shapes = tuple((name, tuple(t.shape), t.dtype, name in trained) for name, t in state_of(subnet).items())
    return repr(subnet), shapes, compared


_MODULE_STATE = frozenset(vars(nn.Module()))
"""What every module has: its parameters, hooks and the like, which are compared by themselves."""
