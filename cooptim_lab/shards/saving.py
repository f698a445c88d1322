"""A sharded run's checkpoints: when one is due, what goes into it, going on from it. All collective."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..comm.context import Context
from ..comm.objects import agree, barrier, bcast, gather
from ..errors import InputError
from ..runs.events import Note, Resumed
from ..training.loop import Clock
from . import checkpoint
from .keeping import IF_THERE, MUST, Keeping
from .shard import Shard
from .stepping import ShardStep


class Saving:
    """The state of one rank's training, to and from the disk of rank 0's host."""

    def __init__(self, context: Context, shard: Shard, step: ShardStep, keeping: Keeping | None, clock: Clock) -> None:
        self._context, self._shard, self._keeping, self._clock = context, shard, keeping, clock
        self._replica, self._aggregator = step.replica, step.aggregator
        self._every, self._saved = shard.spec.save_every, 0

    def is_due(self, done: int) -> bool:
        """Whether a checkpoint should be made after so many steps, if the aggregator lets it."""
        return self._every > 0 and done - self._saved >= self._every

    def can_save(self) -> bool:
        """Whether checkpoints are asked for, and the aggregator lets one be made just now."""
        return self._every > 0 and self._aggregator.can_save()

    def save(self, done: int) -> None:
        """Of the state after so many steps.

        A disk that takes no more is told of; the checkpoint before stays, the training goes on.
        """
        self._saved = done
        own: dict[str, Any] = {"random": checkpoint.random_state(), "own": self._aggregator.state()}
        if not self._aggregator.is_replicated:
            own["learner"] = self._replica.state()
            if not self._aggregator.shares_weights:
                own["weights"] = self._replica.weights
        own["buffers"] = list(self._replica.model.buffers())
        ranks = gather(self._context.comm, own)
        if ranks is not None and self._keeping is not None:
            self._write(Path(self._keeping.path), ranks, done)
        barrier(self._context.comm)  # nobody's clock goes on while rank 0 still writes

    def _write(self, path: Path, ranks: Sequence[dict[str, Any]], done: int) -> None:
        state = {
            "signature": checkpoint.signature(self._replica.model),
            "weights": self._replica.weights.detach(),
            "learner": self._replica.state(),
            "ranks": ranks,
            "done": done,
            "seconds": self._clock.seconds,
        }
        try:
            checkpoint.write(path, state)
        except OSError as error:
            text = f"no checkpoint after step {done}: {error.strerror or error}; the one before is kept"
            self._context.report(Note(rank=0, text=text))

    def resume(self) -> int:
        """Go on from the newest checkpoint where that was asked for; returns the steps that were made before.

        Raises
        ------
        InputError
            When it must be gone on from and cannot be read, or is of another model or number of ranks.
        """
        keeping = self._keeping
        if keeping is None or not self._is_to_resume(keeping):
            return 0
        state = self._read(Path(keeping.path))
        mine = checkpoint.signature(self._replica.model)
        theirs = [(name, tuple(shape), kind) for name, shape, kind in state["signature"]]
        checkpoint.check_same(theirs, mine, "the checkpoint is of another model")
        ranks, size = len(state["ranks"]), self._context.size
        if ranks != size:
            raise InputError(f"the checkpoint is of {ranks} ranks: workers = {size} cannot go on from it")
        self._load(state, state["ranks"][self._context.rank])
        done = self._saved = state["done"]
        if self._context.is_root:
            self._context.report(Resumed(rank=0, step=done, epoch=done / self._shard.per_epoch))
        return done

    def _is_to_resume(self, keeping: Keeping) -> bool:
        """Rank 0 looks, on its own host."""
        if keeping.resume != IF_THERE:
            return keeping.resume == MUST
        is_there = bcast(self._context.comm, checkpoint.exists(Path(keeping.path)))
        if not is_there and self._context.is_root:
            self._context.report(Resumed(rank=0, step=0, epoch=0.0))
        return is_there

    def _read(self, path: Path) -> dict[str, Any]:
        state: dict[str, Any] = {}
        wrong = None
        if self._context.is_root:
            try:
                state, said = checkpoint.read(path)
                if said:
                    self._context.report(Note(rank=0, text=said))
            except InputError as error:
                wrong = error
        agree(self._context.comm, wrong)
        return bcast(self._context.comm, state)

    def _load(self, state: dict[str, Any], own: dict[str, Any]) -> None:
        with torch.no_grad():
            self._replica.weights.copy_(own.get("weights", state["weights"]))
            for buffer, value in zip(self._replica.model.buffers(), own["buffers"], strict=True):
                buffer.copy_(value)
        self._replica.load(own.get("learner", state["learner"]))
        self._aggregator.load(own["own"])
        checkpoint.set_random_state(own["random"])
        self._clock.seconds = state["seconds"]
