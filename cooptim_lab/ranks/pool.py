"""RankPool: MPI ranks that stand ready. Start, submit, stop, close.

One thread carries the pool: it takes jobs from a queue, starts (or grows) the ranks when a job needs them, and sees
each job to its end. Whatever goes wrong on a rank ends the job for all of them, and the next job finds a whole pool
again.
"""

from __future__ import annotations

import atexit
import itertools
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cloudpickle
import psutil

from ..errors import InputError, LabError, PoolError, RankFailure, RunStopped
from ..hardware import allowed_cpus
from ..runs.events import Note, Output, Phase
from ..runs.run import Run
from . import wire
from .forking import Nursery, shared_nursery
from .parcel import Parcel, Sender
from .rankset import Lost, Mailbox, Printed, RankSet
from .spmd import pull_name, push_names

ANSWER_SECONDS = 2.0
"""A rank that has not answered an interrupt by then sits in a call that Python cannot leave: all ranks are replaced."""

REPLACED = "all ranks are replaced, and names that cells have left in them are lost"

Finish = Callable[[Run[Any], list[Any], bool], None]
"""Makes the run's result of the values of all ranks, in their order; the flag says whether it was asked to stop."""


@dataclass
class _Job:
    id: int
    run: Run[Any]
    calls: tuple[Parcel, ...]
    sender: Sender
    workers: int
    finish: Finish
    is_cooperative: bool
    timeout: float | None = None
    pending: set[int] = field(default_factory=set)
    values: dict[int, Any] = field(default_factory=dict)
    failure: LabError | None = None
    deadline: float | None = None
    is_interrupted: bool = False


@dataclass(frozen=True)
class _StopAsked:
    job: int
    level: int


class RankPool:
    """Ranks that serve one job after the other.

    Parameters
    ----------
    workers
        Ranks to start with. A job that asks for fewer uses the first ones, one that asks for more makes the pool grow
        (a new launch; what programs left in the ranks' memory is gone then).

    Examples
    --------
    >>> with RankPool(2) as pool:                       # doctest: +SKIP
    ...     pool.run(lambda context: context.rank * 10)
    [0, 10]
    """

    def __init__(self, workers: int = 1) -> None:
        check_workers(workers)
        self.workers = workers
        self._ids = itertools.count(1)
        self._queue: queue.SimpleQueue[_Job | Callable[[], None] | None] = queue.SimpleQueue()
        self._mailbox: Mailbox = queue.SimpleQueue()
        self._set: RankSet | None = None
        self._current: _Job | None = None
        self._closed = False
        self._epoch = 0
        self._thread = threading.Thread(target=self._serve, name="cooptim-pool", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def __enter__(self) -> RankPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def submit(
        self,
        run: Run[Any],
        program: Callable[..., Any],
        arguments: Mapping[str, Any],
        *,
        workers: int,
        finish: Finish,
        per_rank: Sequence[Mapping[str, Any]] | None = None,
        is_cooperative: bool = True,
        timeout: float | None = None,
    ) -> None:
        """Queue `program(context, **arguments)` for `workers` ranks, on behalf of `run`. Returns at once.

        Parameters
        ----------
        program
            Travels by value (cloudpickle); called on every rank with a `training.context.Context`.
        finish
            Called with (run, values by rank, was it asked to stop) when all ranks have returned.
        per_rank
            Further arguments for each rank, in their order: what one rank needs, only that rank is sent.
        is_cooperative
            Whether the program looks at `context.stopping()`. If not, the first stop interrupts it.
        timeout
            Seconds from its start after which it is interrupted and the run fails.

        Raises
        ------
        InputError
            When the program or its arguments cannot be sent.
        PoolError
            When the pool was closed.
        """
        if self._closed:
            raise PoolError("the pool is closed: make a new RankPool")
        check_workers(workers)
        sender = Sender()
        if per_rank is None:
            calls = (sender.pack((program, dict(arguments))),) * workers
        else:
            calls = tuple(sender.pack((program, {**arguments, **own})) for own in per_rank)
        job = _Job(next(self._ids), run, calls, sender, workers, finish, is_cooperative, timeout)
        run.on_stop(lambda level: self._mailbox.put((None, _StopAsked(job.id, level))))
        self._queue.put(job)

    def run(
        self,
        program: Callable[..., Any],
        /,
        *,
        workers: int | None = None,
        per_rank: Sequence[Mapping[str, Any]] | None = None,
        **arguments: Any,
    ) -> list[Any]:
        """Run a program on the ranks, wait, and return what each of them returned, in order (see `submit`)."""
        workers = self.workers if workers is None else workers
        run: Run[list[Any]] = Run("call", {"workers": workers})
        self.submit(
            run, program, arguments, workers=workers, finish=give_values, per_rank=per_rank, is_cooperative=False
        )
        try:
            return run.wait()
        except KeyboardInterrupt:
            run.stop()
            raise

    def push(self, **names: Any) -> None:
        """Put names into every rank's memory, where `%%cooptim ranks` cells find them. Large arrays are sent once."""
        self.run(push_names, names=names)

    def pull(self, name: str) -> list[Any]:
        """The value of a name in every rank's memory, by rank.

        Raises
        ------
        InputError
            When a rank has none of that name.
        """
        return self.run(pull_name, name=name)

    def reserve(self, workers: int) -> None:
        """The next start brings at least so many ranks, so that a larger job to come need not start them anew."""
        self.workers = max(self.workers, workers)

    def start(self) -> None:
        """Start the ranks now and wait for them, instead of at the first job.

        Raises
        ------
        PoolError
        """
        self._on_thread(lambda: self._ensure(self.workers, lambda: False))

    def stop(self) -> None:
        """Let the ranks leave, after the jobs that are queued. The next job starts new ones."""
        self._on_thread(self._release)

    def close(self) -> None:
        """End the pool for good: the running job fails, the ranks are ended at once."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        self._queue.put(None)
        if self._set is not None:
            self._set.kill()
        self._thread.join(5)

    @property
    def is_busy(self) -> bool:
        """Whether a job is running or waiting."""
        return self._current is not None or not self._queue.empty()

    def status(self) -> list[dict[str, Any]]:
        """One row per rank: rank, host, pid, state (idle, busy), memory (PSS in bytes, None if unknown), seconds up.

        Empty while no ranks are started.
        """
        ranks, current = self._set, self._current
        if ranks is None or ranks.is_lost:
            return []
        busy = current.pending if current is not None else set()
        return [
            {
                "rank": rank,
                "host": hello.host,
                "pid": hello.pid,
                "state": "busy" if rank in busy else "idle",
                "memory": _private_memory(hello.pid),
                "seconds": time.time() - ranks.started,
                "library": hello.library,
            }
            for rank, hello in sorted(ranks.hellos.items())
        ]

    # On the pool's thread.

    def _on_thread(self, action: Callable[[], object]) -> None:
        """Run an action between jobs and wait for it; what it raises is raised here."""
        done, raised = threading.Event(), []

        def act() -> None:
            try:
                action()
            except LabError as error:
                raised.append(error)
            finally:
                done.set()

        self._queue.put(act)
        while not done.wait(0.2):
            if not self._thread.is_alive():
                raise PoolError("the pool is closed: make a new RankPool")
        if raised:
            raise raised[0]

    def _serve(self) -> None:
        while (item := self._queue.get()) is not None:
            if not isinstance(item, _Job):
                item()
                continue
            self._current = item
            try:
                self._execute(item)
            except Exception as error:  # noqa: BLE001 - a run must end, whatever happens; the error is its end
                item.run.fail(error)
            finally:
                item.sender.close()
                self._current = None
        self._drop()

    def _ensure(self, workers: int, cancelled: Callable[[], bool]) -> RankSet:
        """Ranks that are alive and enough."""
        if self._set is not None and not self._set.is_lost and self._set.workers >= workers:
            return self._set
        self._release()
        self._mailbox = queue.SimpleQueue()  # what the old ranks may still say is for nobody
        nursery = shared_nursery()
        self._set = self._launch(workers, nursery, cancelled)
        return self._set

    def _launch(self, workers: int, nursery: Nursery | None, cancelled: Callable[[], bool]) -> RankSet:
        fresh = RankSet(max(workers, self.workers), self._mailbox, nursery)
        try:
            fresh.start(lambda: cancelled() or self._closed)
        except PoolError:
            if nursery is None or not nursery.is_gone():
                raise
            return self._launch(workers, None, cancelled)  # the nursery died meanwhile: each rank by itself, this once
        return fresh

    def _release(self) -> None:
        if self._set is not None and not self._set.is_lost:
            self._set.close()
        self._set = None

    def _drop(self) -> None:
        if self._set is not None:
            self._set.kill()
        self._set = None

    def _execute(self, job: _Job) -> None:
        run = job.run
        if self._set is None or self._set.is_lost or self._set.workers < job.workers:
            run.post(Phase(text=f"starting {max(job.workers, self.workers)} MPI ranks"))
        try:
            ranks = self._ensure(job.workers, lambda: run.stop_level > 0)
        except PoolError:
            if run.stop_level == 0:
                raise
            run.fail(RunStopped("stopped while the ranks were starting"))
            return
        if run.stop_level:
            run.fail(RunStopped("stopped before it began"))
            return
        cpus = allowed_cpus()
        if job.workers > cpus:
            run.post(Note(text=f"{job.workers} workers share {cpus} CPUs: they take turns, do not expect a speedup"))
        run.begin()
        run.post(Phase(text="running"))
        job.pending = set(range(job.workers))
        for rank in range(job.workers):
            ranks.send(rank, wire.Start(job.id, self._epoch, job.workers, max(1, cpus // job.workers), job.calls[rank]))
        if job.timeout is not None:
            job.deadline = time.monotonic() + job.timeout
        self._attend(job, ranks)
        if job.failure is not None:
            self._epoch += 1
            run.fail(job.failure)
        else:
            job.finish(run, [job.values[rank] for rank in range(job.workers)], run.stop_level > 0)

    def _attend(self, job: _Job, ranks: RankSet) -> None:
        """Hear the ranks out until every one has returned, failed or is gone."""
        while job.pending:
            try:
                left = None if job.deadline is None else max(0.0, job.deadline - time.monotonic())
                rank, message = self._mailbox.get(timeout=left)
            except queue.Empty:
                if job.failure is None and job.timeout is not None:
                    late = ", ".join(map(str, sorted(job.pending)))
                    job.failure = PoolError(f"not done after {job.timeout:g} s: rank {late} was interrupted")
                    job.timeout = job.deadline = None
                    self._interrupt(job, ranks)
                    continue
                job.failure = _say_more(job.failure or RunStopped("stopped"), f"a rank did not answer; {REPLACED}")
                ranks.kill()
                return
            match message:
                case wire.Happened(job=id, event=event) if id == job.id:
                    job.run.post(event)
                case Printed(stream=stream, text=text):
                    job.run.post(Output(rank=rank, stream=stream, text=text))
                case wire.Finished(job=id, value=value) if id == job.id and rank is not None:
                    job.pending.discard(rank)
                    job.values[rank] = cloudpickle.loads(value)
                case wire.Failed(job=id) if id == job.id and rank is not None:
                    job.pending.discard(rank)
                    self._on_failed(job, ranks, rank, message)
                case Lost():
                    self._on_lost(job, ranks, rank)
                    return
                case _StopAsked(job=id, level=level) if id == job.id:
                    self._on_stop(job, ranks, level)

    def _on_failed(self, job: _Job, ranks: RankSet, rank: int, message: wire.Failed) -> None:
        if message.kind == "interrupt":
            job.failure = job.failure or RunStopped("stopped")
        elif message.kind == "input":
            job.failure = _first(job.failure, InputError(message.message))
        else:
            host = ranks.hellos[rank].host
            job.failure = _first(job.failure, RankFailure(rank, host, message.message, message.traceback))
        self._interrupt(job, ranks)  # the others may wait for this one for ever

    def _on_lost(self, job: _Job, ranks: RankSet, rank: int | None) -> None:
        if job.run.stop_level > 2 or self._closed:
            job.failure = RunStopped("stopped")
        elif rank is None:
            said = " | ".join(list(ranks.launcher_output)[-4:]) or "it said nothing"
            job.failure = _first(job.failure, PoolError(f"mpiexec ended and took all ranks with it: {said}"))
        else:
            cause = ranks.cause_of_death(rank)
            job.failure = _first(job.failure, RankFailure(rank, ranks.hellos[rank].host, cause))
        job.failure = _say_more(job.failure, REPLACED)
        ranks.kill()

    def _on_stop(self, job: _Job, ranks: RankSet, level: int) -> None:
        if level > 2:
            job.failure = _say_more(job.failure or RunStopped("stopped"), REPLACED)
            ranks.kill()
        elif level == 2 or not job.is_cooperative:
            self._interrupt(job, ranks)
        else:
            for rank in job.pending:
                ranks.send(rank, wire.Stop(job.id))

    def _interrupt(self, job: _Job, ranks: RankSet) -> None:
        if job.is_interrupted:
            return
        job.is_interrupted = True
        for rank in job.pending:
            ranks.send(rank, wire.Stop(job.id, hard=True))
        job.deadline = time.monotonic() + ANSWER_SECONDS


def check_workers(workers: Any) -> None:
    """Refuse what is no number of ranks."""
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise InputError(f"workers = {workers!r}: must be a whole number, 1 or more")


def give_values(run: Run[Any], values: list[Any], stopped: bool) -> None:
    """The plainest `Finish`: the result is the ranks' values, in order."""
    run.finish(values)


def _say_more(failure: LabError, more: str) -> LabError:
    """The same failure, with `more` at the end of its message."""
    if isinstance(failure, RankFailure):
        said = f"{failure.message}; {more}"
        return RankFailure(failure.rank, failure.host, said, failure.remote_traceback)
    return type(failure)(f"{failure}; {more}")


def _first(known: LabError | None, new: LabError) -> LabError:
    """The failure to report: the first, but a real one before those that a stop has caused."""
    return new if known is None or isinstance(known, RunStopped) else known


def _private_memory(pid: int) -> int | None:
    try:
        return psutil.Process(pid).memory_full_info().pss
    except (psutil.Error, AttributeError):
        return None


SHARED_WORKERS = 2
"""What the shared pool starts with where there are CPUs for them: enough for the first lessons without a restart."""
_shared: RankPool | None = None
_sharing = threading.Lock()


def shared_pool() -> RankPool:
    """The pool of this process, which all calls use that are not given one. Its ranks start with the first job."""
    global _shared  # noqa: PLW0603 - one pool per process is the point
    with _sharing:
        if _shared is None or _shared._closed:
            _shared = RankPool(min(allowed_cpus(), SHARED_WORKERS))
        return _shared


def close_shared_pool() -> None:
    """End the shared pool, if there is one; the next `shared_pool()` makes another."""
    with _sharing:
        if _shared is not None:
            _shared.close()
