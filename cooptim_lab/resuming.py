"""Runs that outlive what carries them: a lost rank, a killed kernel.

A run with checkpoints keeps its task beside its record. When a rank is lost, the run goes on from the newest checkpoint
by itself, as often as `retries` says (one that was lost before the run had begun on it is the pool's business, and
costs no retry); when the kernel went away, another takes it up (`reopen`). A lock, which the system takes away with the
process that holds it, sees to it that only one kernel carries a run.
"""

from __future__ import annotations

import contextlib
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import InputError, LabError, PoolError, RankFailure
from .ranks.failures import is_of_mpi
from .ranks.parcel import dumps
from .runs import store
from .runs.events import Ended, Note
from .runs.run import Run
from .shards.keeping import FRESH, IF_THERE, MUST, Keeping
from .task import Task
from .training.spec import Spec

Submit = Callable[[Keeping, Callable[[LabError], bool]], None]
"""Hands the run to the ranks; the second is asked when it has failed, and says whether it goes on all the same."""


@dataclass
class Resumption:
    """Carries one run with checkpoints, through failures."""

    run: Run[Any]
    submit: Submit
    retries: int
    _lock: Any = None
    _tried: int = field(default=0)

    def begin(self, task: Task, spec: Spec) -> None:
        """A new run: keep what resuming needs, then start."""
        try:
            self._lock = store.claim(self.run.id)
            store.keep_bytes(self.run.id, store.TASK, dumps((task, spec)))
        except (OSError, InputError) as error:
            self.run.post(Note(text=f"once this kernel is gone the run cannot be resumed: {error}"))
        self._start(FRESH)

    def go_on(self, lock: Any) -> None:
        """A run that `reopen` has opened."""
        self._lock = lock
        self._start(MUST)

    def _start(self, resume: str) -> None:
        self.run.log.listen(self._heed)
        self._submit(resume)

    def _submit(self, resume: str) -> None:
        self.submit(Keeping(str(store.path(self.run.id, store.CHECKPOINT)), resume), self._rescue)

    def _rescue(self, error: LabError) -> bool:
        """On the pool's thread, when the run has failed."""
        if self._tried >= self.retries or self.run.stop_level or not is_loss(error):
            return False
        try:
            self._submit(IF_THERE)
        except PoolError:  # closed meanwhile
            return False
        self._tried += 1
        how = "from its last checkpoint, if it had one"
        self.run.post(Note(text=f"{error}; the run goes on {how} (retry {self._tried} of {self.retries})"))
        return True

    def _heed(self, event: Any) -> None:
        if not isinstance(event, Ended) or self._lock is None:
            return
        ended = (store.TASK, store.CHECKPOINT + ".before") if event.state == "done" else ()
        for ending in (*ended, store.LOCK):
            with contextlib.suppress(OSError):
                store.path(self.run.id, ending).unlink(missing_ok=True)
        self._lock.close()
        self._lock = None


def is_loss(error: LabError) -> bool:
    """Whether ranks were lost, rather than that their program raised: that it would do again."""
    is_dead = isinstance(error, RankFailure) and error.remote_traceback is None
    return is_dead or is_of_mpi(error) or isinstance(error, PoolError)


def reopen(id: str) -> tuple[Run[Any], Task, Spec, Any]:
    """A run on record that did not come to its end: a handle that goes on with it, its task, its spec, its lock.

    Raises
    ------
    InputError
        When there is no such run, it has come to its end, goes on elsewhere, or left nothing to go on from.
    """
    record = store.load(id)
    if record.state == "done":
        raise InputError(f"run {id} has come to its end: there is nothing to resume")
    if not record.options.get("save_every"):
        raise InputError(f"run {id} made no checkpoints: only runs of sharded with --save-every can be resumed")
    lock = store.claim(id)
    try:
        task, spec = _open_task(id)
    except BaseException:  # an interrupt too: the run must not stay claimed
        store.path(id, store.LOCK).unlink(missing_ok=True)
        lock.close()
        raise
    run: Run[Any] = Run(record.kind, record.options, title=record.title, id=id)
    for event in record.events:
        if not isinstance(event, Ended):
            run.log.append(event)
    return run, task, spec, lock


def _open_task(id: str) -> tuple[Task, Spec]:
    path: Path = store.path(id, store.TASK)
    try:
        task, spec = pickle.load(io.BytesIO(path.read_bytes()))
    except FileNotFoundError:
        raise InputError(f"the task of run {id} was not kept: it cannot be resumed") from None
    except Exception as error:
        raise InputError(f"the task of run {id} cannot be opened: {type(error).__name__}: {error}") from error
    return task, spec
