"""Hooks on the gradients of parameters: they travel with what they hang on.

torch leaves them behind wherever a parameter is copied or pickled. Which of them cannot be right where is said by who
trains. No torch is loaded here: the kernel packs tasks without it.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

import cloudpickle

from ..errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

ON_TENSORS = ("_backward_hooks", "_post_accumulate_grad_hooks")
"""Where torch keeps them: of a gradient on its way, and of one that has been added up."""


class HookPickler(cloudpickle.Pickler):
    """cloudpickle, with the hooks of leaf tensors."""

    def reducer_override(self, obj: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(obj, torch.Tensor) and obj.is_leaf and is_hooked(obj):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that a tensor's hooks do not come along: they do
                make, given = obj.__reduce_ex__(cloudpickle.DEFAULT_PROTOCOL)
            # As a state, so that a hook may reach the tensor that it hangs on.
            return make, given, [getattr(obj, name) for name in ON_TENSORS], None, None, _hang_on_tensor
        return super().reducer_override(obj)


def is_hooked(tensor: Tensor) -> bool:
    """Whether something is to be called with its gradient."""
    return any(getattr(tensor, name, None) for name in ON_TENSORS)


def hooked(network: nn.Module) -> list[str]:
    """Names of the parameters to be trained that have a hook on their gradient."""
    return [name for name, p in network.named_parameters() if p.requires_grad and is_hooked(p)]


def refuse_hooks(network: nn.Module, why: str) -> None:
    """Refuse hooks on gradients; `why` says what one would be given, and what to do instead.

    Raises
    ------
    InputError
    """
    names = hooked(network)
    if names:
        raise InputError(f"a hook on the gradient of {names[0]} {why}")


def _hang_on_tensor(tensor: Tensor, every: list[Any]) -> None:
    """The very dicts that travelled: a handle that came along takes its hook out of them."""
    for name, hooks in zip(ON_TENSORS, every, strict=True):
        if hooks:
            _number_above(hooks)
            setattr(tensor, name, hooks)


def _number_above(hooks: Any) -> None:
    """Hooks are kept by a number that is new in their process: the next one here must not take one of these."""
    from torch.utils.hooks import RemovableHandle

    RemovableHandle.next_id = max(RemovableHandle.next_id, *(number + 1 for number in hooks))
