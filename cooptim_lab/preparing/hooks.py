"""Hooks on the gradients of parameters, and on an optimizer's steps: they travel with what they hang on.

torch leaves both behind wherever a parameter or an optimizer is copied or pickled. Which of them cannot be right where
is said by who trains. No torch is loaded here: the kernel packs tasks without it.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

import cloudpickle

from ..errors import InputError
from .portable import refuse_what_cannot_travel
from .sharing import Shared

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

ON_TENSORS = ("_backward_hooks", "_post_accumulate_grad_hooks")
"""Where torch keeps them: of a gradient on its way, and of one that has been added up."""
ON_OPTIMIZERS = tuple(
    f"_optimizer_{what}_hooks"
    for what in (
        "step_pre", "step_post", "state_dict_pre", "state_dict_post", "load_state_dict_pre", "load_state_dict_post",
    )
)  # fmt: skip


class HookPickler(cloudpickle.Pickler):
    """cloudpickle, with the hooks of leaf tensors and of optimizers, and with one memory where tensors have one.

    Raises
    ------
    InputError
        When a network has two tensors over one memory, of which one is trained: they would come apart; or layers that
        cannot be pickled (`portable`).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seen: set[Any] = set()
        """Modules of the networks that were looked at."""
        self._shared = Shared()

    def reducer_override(self, obj: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(obj, torch.nn.Module) and obj not in self._seen:
            self._seen.update(obj.modules())
            refuse_what_cannot_travel(obj)
            self._shared.look_at(obj)
        if obj in self._shared:
            return self._shared.reduced(obj)
        if torch is not None and isinstance(obj, torch.Tensor) and obj.is_leaf and is_hooked(obj):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that a tensor's hooks do not come along: they do
                make, given = obj.__reduce_ex__(cloudpickle.DEFAULT_PROTOCOL)
            # As a state, so that a hook may reach the tensor that it hangs on.
            return make, given, [getattr(obj, name) for name in ON_TENSORS], None, None, _hang_on_tensor
        if torch is not None and isinstance(obj, torch.optim.Optimizer) and (own := own_steps(obj)):
            made = obj.__reduce_ex__(cloudpickle.DEFAULT_PROTOCOL)
            return made[0], made[1], (made[2], own), None, None, _hang_on_optimizer
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


def own_steps(optimizer: Optimizer) -> dict[str, Any]:
    """What this one optimizer does otherwise than its class: hooks, and a step that was put in the place of its own.

    A torch scheduler that was made for it does put one there, which only counts.
    """
    found = {name: hooks for name in ON_OPTIMIZERS if (hooks := getattr(optimizer, name, None))}
    step = vars(optimizer).get("step")
    if step is not None and not getattr(step, "_wrapped_by_lr_sched", False):
        found["step"] = step
    return found


def _hang_on_tensor(tensor: Tensor, every: list[Any]) -> None:
    """The very dicts that travelled: a handle that came along takes its hook out of them."""
    for name, hooks in zip(ON_TENSORS, every, strict=True):
        if hooks:
            _number_above(hooks)
            setattr(tensor, name, hooks)


def _hang_on_optimizer(optimizer: Optimizer, state: tuple[Any, dict[str, Any]]) -> None:
    known, own = state
    optimizer.__setstate__(known)
    for name, value in own.items():
        if name in ON_OPTIMIZERS:
            _number_above(value)
        setattr(optimizer, name, value)


def _number_above(hooks: Any) -> None:
    """Hooks are kept by a number that is new in their process: the next one here must not take one of these."""
    from torch.utils.hooks import RemovableHandle

    RemovableHandle.next_id = max(RemovableHandle.next_id, *(number + 1 for number in hooks))
