"""What a task is, looked at on a rank and told as a JSON object: its layers, what can be split, how it is scored.

The examination before the clock is the same that every way makes; here it is made for itself, when a task is defined.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .comm.context import Context
from .errors import InputError
from .preparing.building import count_parameters, trained
from .preparing.eager import eagerly
from .preparing.examination import undisturbed
from .preparing.modes import evaluating
from .preparing.prepare import Prepared, prepare
from .subnets.finding import find_units
from .task import Task

SCORES = {
    "classes": "accuracy: the largest output is the class",
    "sign": "accuracy: an output above 0 means 1",
    "half": "accuracy: an output above 1/2 means 1",
    "nothing": "the loss: outputs say no classes",
}
DIVIDES = {"mean": "a mean over rows", "sum": "a sum over rows", "weighted": "a mean weighed by the labels"}


def look(context: Context, task: Task, batch: int) -> dict[str, Any]:
    """Examine a task, and say what it is.

    Returns
    -------
    dict
        layers: rows (name, kind, shape of the outputs without the batch, parameters); parameters, trained: their
        numbers; rows, held_out; x, y: shapes of a row; score, divides: words; split: rows (layer, size, what), or
        unsplit: why it cannot be split; findings: a line each.

    Raises
    ------
    InputError
        One line that names what does not fit.
    """
    prepared = prepare(task, batch)
    network = prepared.model(0)
    split, unsplit = _split(network, prepared.x[:2])
    meaning, reduction = prepared.examined.meaning, prepared.examined.reduction
    return {
        "layers": _layers(network, prepared),
        "parameters": count_parameters(network),
        "trained": sum(p.numel() for _, p in trained(network)),
        "rows": len(prepared.x),
        "held_out": len(prepared.held_x),
        "x": list(prepared.x.shape[1:]),
        "y": list(prepared.y.shape[1:]),
        "score": SCORES[meaning.kind] if task.metric is None else "a metric of your own",
        "divides": DIVIDES[reduction.kind],
        "split": split,
        "unsplit": unsplit,
        "findings": list(prepared.findings),
    }


def _layers(network: nn.Module, prepared: Prepared) -> list[tuple[str, str, list[int], int]]:
    """Of modules that have none inside, in the order in which they are called; once each."""
    found: dict[str, tuple[str, str, list[int], int]] = {}
    hooks = []

    def watch(name: str, module: nn.Module) -> Any:
        def called(module: nn.Module, given: Any, outputs: Any) -> None:
            if name not in found and isinstance(outputs, Tensor):
                own = sum(p.numel() for p in module.parameters())
                found[name] = (name or "model", type(module).__name__, list(outputs.shape[1:]), own)

        return module.register_forward_hook(called)

    for name, module in network.named_modules():
        if not list(module.children()):
            hooks.append(watch(name, module))
    try:
        with undisturbed(), eagerly(), evaluating(network), torch.no_grad():
            network(prepared.x[:2].clone())
    finally:
        for hook in hooks:
            hook.remove()
    return list(found.values())


def _split(network: nn.Module, sample: Tensor) -> tuple[list[tuple[str, int, str]], str]:
    """What sub-networks would be cut along; or why not."""
    try:
        units = find_units(network, sample)
    except InputError as error:
        return [], str(error)
    if not units.layers:
        return [], "the model has no hidden layer to split"
    return [(layer.name, layer.size, layer.what) for layer in units.layers], ""
