"""What a trained network's answers cost in smaller numbers, and how good they are then. On a rank.

int8 is torch's dynamic quantization: weights in int8 once, activations at every call, so no data has to be seen first.
It is chosen as it is in torch itself; torch warns that it will move to torchao, whose own takes a compiler on a CPU.
"""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .comm.context import Context
from .data.values import first_line
from .preparing.building import copied, on_trial
from .preparing.modes import evaluating
from .preparing.prepare import prepare
from .task import Task
from .training.planned import under_plan
from .training.spec import Spec
from .ways import run_program

ROUNDS = 12
BLOCK_SECONDS = 0.01
"""Of answers in a round, in each kind of numbers."""
QUANTIZED = (nn.Linear, nn.LSTM, nn.GRU)
"""What torch computes in int8, its weights alone being known before."""


def measure_inference(context: Context, task: Task, spec: Spec, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Train a network, and let it answer the held-out rows in bf16 and in int8 beside float32, in paired rounds.

    Returns
    -------
    list of dict
        numbers (bf16, int8); ratios (of each round, seconds over those of float32), metric, before (float32's),
        metric_name; or why it could not be tried, with no ratios. Empty when it was asked to end.

    Raises
    ------
    InputError
        When the network cannot be trained so.
    """
    result, _ = run_program(replace(context, report=lambda *events: None), on_trial(task), under_plan(spec))
    if result is None or result.state != "done":
        return []
    prepared, whole = prepare(task, spec.batch), result.network
    told, made = [], dict[str, Callable[[], Tensor]]()
    for numbers, change in (("bf16", _in_bf16), ("int8", _in_int8)):
        row = {"numbers": numbers, "ratios": [], "why": "", "before": result.metric, "metric_name": result.metric_name}
        told.append(row)
        try:
            answer = change(whole, prepared.held_x)
            row["metric"] = prepared.score(_quietly(answer)).metric
        except Exception as error:  # noqa: BLE001 - what torch cannot do here may raise anything
            row["why"] = first_line(error)
        else:
            made[numbers] = answer
    for numbers, ratios in _race(_answers(whole, prepared.held_x), made, rounds, spec.seed).items():
        next(row for row in told if row["numbers"] == numbers)["ratios"] = ratios
    return told


def _in_bf16(network: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    if any(p.dtype != torch.float32 for p in network.parameters()):
        raise ValueError("its parameters are not float32")
    return _answers(copied("the trained network", network).bfloat16(), x.bfloat16() if x.is_floating_point() else x)


def _in_int8(network: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    if any(p.dtype != torch.float32 for p in network.parameters()):
        raise ValueError("its parameters are not float32")
    if not any(isinstance(module, QUANTIZED) for module in network.modules()):
        raise ValueError("it has no layer that torch computes in int8: Linear, LSTM, GRU")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it moves to another package
        small = torch.ao.quantization.quantize_dynamic(
            copied("the trained network", network).eval(), set(QUANTIZED), dtype=torch.qint8
        )
    return _answers(small, x)


def _answers(network: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    def answer() -> Tensor:
        with evaluating(network), torch.no_grad():
            return network(x.clone())  # a network may work in place

    return answer


def _quietly(answer: Callable[[], Tensor]) -> Tensor:
    """Its first answers, in float32; whether they are finite is seen by the score."""
    outputs = answer().float()
    if not outputs.isfinite().all():
        raise ValueError("its answers are not finite")
    return outputs


def _race(
    usual: Callable[[], Tensor], others: dict[str, Callable[[], Tensor]], rounds: int, seed: int
) -> dict[str, list[float]]:
    """Of each the seconds over the usual one's, round by round, in random order."""
    everything = {"": usual, **others}
    ratios: dict[str, list[float]] = {name: [] for name in others}
    times, generator, names = _times(usual), random.Random(seed), list(everything)
    for _ in range(rounds):
        generator.shuffle(names)
        took = {name: _seconds(everything[name], times) for name in names}
        for name in others:
            ratios[name].append(took[name] / took[""])
    return ratios


def _times(answer: Callable[[], Tensor]) -> int:
    """How many answers make a block."""
    answer()
    return max(1, round(BLOCK_SECONDS / max(_seconds(answer, 3), 1e-9)))


def _seconds(answer: Callable[[], Tensor], times: int) -> float:
    """Of one answer, the first one not counted: caches are as the one before has left them."""
    answer()
    began = time.perf_counter()
    for _ in range(times):
        answer()
    return (time.perf_counter() - began) / times
