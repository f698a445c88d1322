"""A copy of a network with smaller tensors in the places of its own, and with settings that tell of them.

What a tensor's rows and columns stand for, and which of them a copy keeps, is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ..preparing.building import copied


def narrowed(model: nn.Module, tensors: Mapping[str, Tensor], widths: Mapping[str, int]) -> nn.Module:
    """A copy that has these tensors.

    Parameters
    ----------
    tensors
        By the names of the parameters and buffers whose places they take.
    widths
        By the names of modules whose width is a setting also where they have no parameter.
    """
    narrow = copied("the model", model)
    for name, value in tensors.items():
        path, _, attribute = name.rpartition(".")
        owner = narrow.get_submodule(path)
        old = getattr(owner, attribute)
        is_parameter = isinstance(old, nn.Parameter)
        setattr(owner, attribute, nn.Parameter(value, old.requires_grad) if is_parameter else value)
    for name, module in narrow.named_modules():
        _resize(module, widths.get(name))
    return narrow


def initialise(model: nn.Module) -> nn.Module:
    """Every layer as it initialises itself."""
    for module in model.modules():
        reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
        if callable(reset):
            reset()
    return model


def _resize(module: nn.Module, width: int | None) -> None:
    """Let a module's settings say what its tensors are."""
    match module:
        case nn.Linear():
            module.out_features, module.in_features = module.weight.shape
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            if module.groups > 1:
                module.groups = module.weight.shape[0]
            module.out_channels, module.in_channels = module.weight.shape[0], module.weight.shape[1] * module.groups
        case nn.Embedding():
            module.embedding_dim = module.weight.shape[1]
        case nn.MultiheadAttention() if width is not None:
            size = module.embed_dim // module.num_heads
            module.embed_dim = module.kdim = module.vdim = width
            module.num_heads = width // size
        case nn.GroupNorm() if width is not None:
            size = module.num_channels // module.num_groups
            module.num_channels, module.num_groups = width, width // size
        case nn.PReLU() if width is not None:
            module.num_parameters = width
        case nn.LayerNorm() | nn.RMSNorm() if width is not None:
            module.normalized_shape = (width,)
        case _ if width is not None:
            module.num_features = width  # type: ignore[assignment]
