"""What a reader of the result should know: what is said of how subnets trained, which were lost, what merging did.

When it is said, and to whom, is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..preparing.prepare import Prepared
from ..preparing.scoring import Score
from ..runs.events import Note
from ..training.spec import Subnets
from .engines.device import CPU
from .joint import Joint
from .split import Division, of_mixed

WORSE = 1.1
"""Merged parts whose loss is more than so many times that of their mean are told of."""


def of_one_lost(rank: int, said: str) -> Note:
    """Of a subnet whose loss is no longer finite."""
    return Note(rank=rank, text=f"{said}; it is left out, the others go on")


def of_a_stack_that_failed(rank: int, why: str) -> Note:
    """Of sub-networks that were trained together, in a step that they can only make alone."""
    return Note(rank=rank, text=f"a stack of sub-networks failed ({why}): they go on one after the other")


def of_what_is_lost(rank: int, what: str) -> Note:
    """Of networks that are handed over and do not compute what was trained."""
    return Note(rank=rank, text=f"the network handed over is not what was trained: {what}")


def of_the_engine(engine: str, why: str) -> Note:
    """Of one that was chosen."""
    return Note(rank=0, text=f"engine {engine}: {why}", is_doubt=False)


def of_the_training(
    spec: Subnets, division: Division, device: torch.device, engines: Sequence[Sequence[str]]
) -> list[Note]:
    """`engines` of every stack of every rank."""
    texts = []
    if device != CPU:
        texts.append(f"trained on {torch.cuda.get_device_name(device)}; the network as it is trains on the CPU")
    if spec.engine == "stacked" and any(of_rank.count("separate") > 1 for of_rank in engines):
        texts.append("some subnets cannot be stacked and were trained one after the other")
    if spec.fuse == "soup":
        texts.append("soup averages the weights of networks that were trained apart: expect a poor score")
    units = division.units
    if units is not None and (uneven := [x for x in units.layers if x.size % spec.subnets]):
        sizes = ", ".join(f"layer {layer.name} ({layer.size} {layer.what})" for layer in uneven)
        texts.append(f"{spec.subnets} does not divide {sizes}: the first sub-networks are a little wider")
    if spec.resplit > 0 and spec.resplit >= spec.apart_epochs:
        texts.append(f"resplit = {spec.resplit} of {spec.apart_epochs} epochs: the neurons were not dealt anew")
    notes = [Note(rank=0, text=text) for text in texts]
    if division.mixed:
        said = f"{of_mixed(division.mixed)}: each is a narrow network of its own, which can be fused and not be merged"
        notes.append(Note(rank=0, text=said, is_doubt=False))
    return notes


def of_no_gain(why: str) -> Note:
    """Of parts that are to be merged, before they train."""
    return Note(rank=0, text=f"no gain is to be expected: {why}")


def of_joining(
    spec: Subnets, prepared: Prepared, division: Division, joint: Joint, merged: Tensor, mean: Tensor
) -> list[Note]:
    """All that is to be said of a merged network, by its outputs and its parts' mean ones on the held-out rows."""
    notes = _of_the_stages(spec, joint, prepared.score(merged))
    is_other = division.is_fresh and joint.steps  # what was trained as one is not to be their mean
    doubt = None if is_other else of_merging(prepared, division, merged, mean)
    return notes if doubt is None else [*notes, doubt]


def _of_the_stages(spec: Subnets, joint: Joint, last: Score) -> list[Note]:
    """What merging gave, and what was gained after it."""
    epochs = "1 epoch" if spec.joint_epochs == 1 else f"{spec.joint_epochs} epochs"
    if joint.lost:
        text = f"{joint.lost} as one network: it is handed over as it was merged; polish = 0 leaves that out"
        return [Note(rank=0, text=text)]
    told = [f"{after} {_told(score)}" for after, score in joint.stages]
    if joint.steps and told:
        told.append(f"trained as one for {epochs} {_told(last)}")
    if not told:
        return []
    return [Note(rank=0, text=f"held-out {last.metric_name}: {', '.join(told)}", is_doubt=False)]


def _told(score: Score) -> str:
    return f"{100 * score.metric:.1f} %" if score.metric_name == "accuracy" else f"{score.metric:.3g}"


def of_merging(prepared: Prepared, division: Division, merged: Tensor, mean: Tensor) -> Note | None:
    """By their outputs on the held-out rows: of replicas merging is to be exact, of neurons it is to be as good."""
    ours, theirs = prepared.score(merged), prepared.score(mean)
    found = f"held-out {ours.metric_name} {ours.metric:.3g}; their mean: {theirs.metric:.3g}"
    rounding = torch.finfo(mean.dtype).eps ** 0.5 * mean.abs().max()
    if division.is_fresh and (merged - mean).abs().max() > rounding:
        mixes = division.units is not None and division.units.mixes_units
        how = "normalises over all its units" if mixes else "is not linear where its parts meet"
        return Note(rank=0, text=f"the model {how}: merged, the parts do not compute their mean ({found})")
    if not division.is_fresh and ours.loss > theirs.loss * WORSE:
        way_out = "polish longer, deal more often (resplit), or fuse mean"
        return Note(rank=0, text=f"merged, the parts do worse than their mean ({found}): {way_out}")
    return None
