"""The thread that carries a pool's jobs: one after the other, on ranks that it starts when a job needs them.

Whatever goes wrong on a rank ends the job for all of them, and the next job finds a whole pool again. What a job is,
and who asked for it, is not known here.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Set

from ..errors import LabError, PoolError, RunStopped
from ..runs.events import Note, Phase
from .attempt import REPLACED, Attempt
from .cpus import crowded
from .forking import Nursery, shared_nursery
from .imported import changed
from .job import Job
from .launch import Launch
from .mailbox import Closing, Mailbox, StopAsked
from .rankset import RankSet

CLOSE_SECONDS = 10.0
"""How long `close` waits for the ranks' end, which takes a fraction of it."""
PASSAGES = 4
"""How often a job is begun when ranks die at rest: if they go on dying, that is no accident, and its failure."""
CLOSED = "the pool is closed: make a new RankPool"


class Carrier:
    """Carries jobs to ranks.

    Parameters
    ----------
    launch
        Where the ranks run, and what starts them.
    workers
        How many every start brings, or as many as the job needs, if that is more.

    Attributes
    ----------
    ranks : RankSet | None
        Those that stand ready, or None while none are started; they may be lost.
    is_closed : bool
        Whether it takes no job any more.
    """

    def __init__(self, launch: Launch, workers: int) -> None:
        self.workers, self.is_closed = workers, False
        self.ranks: RankSet | None = None
        self._launch = launch
        self._queue: queue.SimpleQueue[Job | Callable[[], None] | None] = queue.SimpleQueue()
        self._mailbox: Mailbox = queue.SimpleQueue()
        self._is_carrying = False
        self._attempt: Attempt | None = None
        self._thread = threading.Thread(target=self._serve, name="cooptim-pool", daemon=True)
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """Whether a job is running or waiting."""
        return self._is_carrying or not self._queue.empty()

    @property
    def busy(self) -> Set[int]:
        """The ranks that have not ended the job that runs."""
        attempt = self._attempt
        return attempt.pending if attempt is not None else frozenset()

    def submit(self, job: Job) -> None:
        """Carry it when those before it have ended. Returns at once."""
        job.run.on_stop(lambda level: self._mailbox.put((None, StopAsked())))
        self._queue.put(job)
        if self.is_closed and threading.current_thread() is not self._thread:  # it was closed meanwhile
            self._thread.join(CLOSE_SECONDS)
            self._turn_away()

    def start(self) -> None:
        """Start the ranks now and wait for them."""
        self._do(lambda: self._ensure(self.workers, lambda: False))

    def stop(self) -> None:
        """Let the ranks leave, after the jobs that are queued, and wait for that."""
        self._do(self._release)

    def close(self) -> None:
        """End for good: the running job fails, the ranks are ended at once."""
        self.is_closed = True
        self._mailbox.put((None, Closing()))
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _do(self, action: Callable[[], object]) -> None:
        """Run an action on the thread, between jobs, and wait for it; what it raises is raised here."""
        done, raised = threading.Event(), list[Exception]()

        def act() -> None:
            try:
                action()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's to know
                raised.append(error)
            finally:
                done.set()

        self._queue.put(act)
        while not done.wait(0.2):
            if not self._thread.is_alive():
                raise PoolError(CLOSED)
        if raised:
            raise raised[0]

    # On the thread.

    def _serve(self) -> None:
        while (item := self._queue.get()) is not None:
            if not isinstance(item, Job):
                item()
                continue
            self._is_carrying = True
            try:
                self._execute(item)
            except Exception as error:  # noqa: BLE001 - a run must end, whatever happens; the error is its end
                if self.busy:
                    self._drop()  # some ranks are still at it
                self._fail(item, error)
            finally:
                item.sender.close()
                self._is_carrying, self._attempt = False, None
        self._drop()
        self._turn_away()

    def _fail(self, job: Job, error: Exception) -> None:
        """The run fails, unless its rescue has submitted it again."""
        try:
            if isinstance(error, LabError) and job.rescue is not None and job.rescue(error):
                return
        except Exception as second:  # noqa: BLE001 - this thread serves all jobs: it outlives what a rescue raises
            error = second
        job.run.fail(error)

    def _turn_away(self) -> None:
        """Fail the jobs that came while the pool was closing: nobody would ever look at them."""
        while True:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return
            if isinstance(item, Job):
                item.sender.close()
                item.run.fail(RunStopped("stopped: the pool was closed"))

    def _ensure(self, workers: int, cancelled: Callable[[], bool]) -> RankSet:
        """Ranks that are alive and enough."""
        if self.ranks is not None and not self.ranks.is_lost and self.ranks.workers >= workers:
            return self.ranks
        self._release()
        self._mailbox = queue.SimpleQueue()  # what the old ranks may still say is for nobody
        nursery = shared_nursery() if self._launch.is_here else None
        self.ranks = self._bring_up(workers, nursery, cancelled)
        return self.ranks

    def _bring_up(self, workers: int, nursery: Nursery | None, cancelled: Callable[[], bool]) -> RankSet:
        fresh = RankSet(max(workers, self.workers), self._mailbox, self._launch, nursery)
        try:
            fresh.start(lambda: cancelled() or self.is_closed)
        except PoolError:
            if nursery is None or not nursery.is_gone():
                raise
            # The nursery died meanwhile: each rank by itself, this once.
            return self._bring_up(workers, None, cancelled)
        return fresh

    def _release(self) -> None:
        if self.ranks is not None:
            self.ranks.close()
        self.ranks = None

    def _drop(self) -> None:
        if self.ranks is not None:
            self.ranks.kill()
        self.ranks = None

    def _execute(self, job: Job) -> None:
        """See a job to its end. One that met the death of a rank at rest begins again, on other ranks."""
        for left in reversed(range(PASSAGES)):
            ranks = self._ranks_for(job)
            if ranks is None:
                return
            if left == PASSAGES - 1:
                for text in crowded([ranks.hellos[rank] for rank in range(job.workers)]):
                    job.run.post(Note(text=text))
            job.run.begin()
            job.run.post(Phase(text="running"))
            self._attempt = attempt = Attempt(job, ranks, self._mailbox)
            attempt.execute()
            if not (attempt.is_void and left):
                break
            job.run.post(Note(text=f"{attempt.failure}; the run begins again"))
        if attempt.failure is not None:
            self._fail(job, attempt.failure)

    def _ranks_for(self, job: Job) -> RankSet | None:
        """Ranks for it; None when it was stopped meanwhile."""
        run, known = job.run, self.ranks
        if known is not None and not known.is_lost and (files := changed(known.imported)):
            said = f"{', '.join(files)} changed since the ranks imported it"
            run.post(Note(text=f"{said}: {REPLACED}", is_doubt=False))
            self._release()
            known = None
        if known is None or known.is_lost or known.workers < job.workers:
            run.post(Phase(text=f"starting {max(job.workers, self.workers)} MPI ranks"))
        try:
            ranks = self._ensure(job.workers, lambda: run.stop_level > 0)
        except PoolError:
            if run.stop_level == 0:
                raise
            run.fail(RunStopped("stopped while the ranks were starting"))
            return None
        if run.stop_level or self.is_closed:
            run.fail(RunStopped("stopped before it began"))
            return None
        if ranks.reason and ranks is not known:
            run.post(Note(text=f"ranks could not be forked, each has imported torch by itself: {ranks.reason}"))
        return ranks
