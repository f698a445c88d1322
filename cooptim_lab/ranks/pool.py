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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import InputError, LabError, PoolError, RunStopped
from ..hardware import allowed_cpus
from ..runs.events import Note, Phase
from ..runs.run import Run
from . import wire
from .forking import Nursery, shared_nursery
from .job import Finish, Job, give_values
from .launch import Launch
from .mailbox import Closing, Mailbox, StopAsked
from .parcel import Sender
from .rankset import RankSet
from .spmd import pull_name, push_names
from .survey import tabulate

CLOSE_SECONDS = 10.0
"""How long `close` waits for the ranks' end, which takes a fraction of it."""


class RankPool:
    """Ranks that serve one job after the other.

    Parameters
    ----------
    workers
        Ranks to start with. A job that asks for fewer uses the first ones, one that asks for more makes the pool grow
        (a new launch; what programs left in the ranks' memory is gone then). None: as many as the hosts have room for,
        or 1.
    hosts
        Where they run, and how many each host has room for: `"a:4,b:4"`. None: on this machine. Every host needs this
        environment at the same path, and to be reached by mpiexec (by ssh, say) without a question asked.
    launcher
        What starts them in mpiexec's place, with `{workers}` where their number goes, and `{hosts}` if hosts are given:
        `"srun --mpi=pmi2 -n {workers}"`. It must pass its standard input on to rank 0. No shell reads it.
    interface
        Name or address of the network interface at which ranks on other hosts reach this process; None: the one on the
        way to the first of the hosts that is another, or (a launcher alone) the one that leads out.

    Raises
    ------
    InputError
        When hosts, launcher or workers cannot be understood, or the hosts have no room.

    Examples
    --------
    >>> with RankPool(2) as pool:                       # doctest: +SKIP
    ...     pool.run(lambda context: context.rank * 10)
    [0, 10]
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        hosts: str | None = None,
        launcher: str | None = None,
        interface: str | None = None,
    ) -> None:
        self.launch = Launch.parse(hosts, launcher, interface)
        self.workers = (self.launch.room or 1) if workers is None else workers
        check_workers(self.workers)
        self.launch.check_room(self.workers)
        self._ids = itertools.count(1)
        self._queue: queue.SimpleQueue[Job | Callable[[], None] | None] = queue.SimpleQueue()
        self._mailbox: Mailbox = queue.SimpleQueue()
        self._set: RankSet | None = None
        self._current: Job | None = None
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
        rescue: Callable[[LabError], bool] | None = None,
    ) -> None:
        """Queue `program(context, **arguments)` for `workers` ranks, on behalf of `run`. Returns at once.

        Parameters
        ----------
        program
            Travels by value (cloudpickle); called on every rank with a `comm.context.Context`.
        finish
            Called with (run, values by rank, was it asked to stop) when all ranks have returned.
        per_rank
            Further arguments for each rank, in their order: what one rank needs, only that rank is sent.
        is_cooperative
            Whether the program looks at `context.stopping()`. If not, the first stop interrupts it.
        timeout
            Seconds from its start after which it is interrupted and the run fails.
        rescue
            Asked, on the pool's thread, when the job has failed: True when it has submitted the run again, which then
            goes on.

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
        self.launch.check_room(workers)
        if per_rank is not None and len(per_rank) != workers:
            raise InputError(f"per_rank has {len(per_rank)} parts for {workers} ranks: give one for each")
        sender = Sender()
        try:
            shared = sender.pack((program, dict(arguments)))
            own = [()] * workers if per_rank is None else [(sender.pack(dict(part)),) for part in per_rank]
            calls = tuple((shared, *parts) for parts in own)
        except BaseException:  # an interrupt too: the memory files are nobody's then
            sender.close()
            raise
        job = Job(next(self._ids), run, calls, sender, workers, finish, is_cooperative, timeout, rescue)
        run.on_stop(lambda level: self._mailbox.put((None, StopAsked())))
        self._queue.put(job)
        if self._closed and threading.current_thread() is not self._thread:  # it was closed meanwhile
            self._thread.join(CLOSE_SECONDS)
            self._turn_away()

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
        """The next start brings at least so many ranks, so that a larger job to come need not start them anew.

        Raises
        ------
        InputError
            When the hosts have no room for so many.
        """
        self.launch.check_room(workers)
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
        self._mailbox.put((None, Closing()))
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)

    @property
    def cpus(self) -> int:
        """How many CPUs its ranks may use, on all their machines: of a pool that is elsewhere, once they are there."""
        ranks = self._set
        if self.launch.is_here or ranks is None:
            return allowed_cpus()
        return sum({hello.machine: hello.cpus for hello in ranks.hellos.values()}.values())

    @property
    def is_busy(self) -> bool:
        """Whether a job is running or waiting."""
        return self._current is not None or not self._queue.empty()

    def status(self) -> list[dict[str, Any]]:
        """One row per rank: rank, host, pid, state, memory, threads, seconds, library; none while no ranks are started.

        `state` is idle or busy; `memory` the proportional set size in bytes and `threads` how many the process has, as
        the rank itself says, or None from one that does not answer at once; `seconds` since they were ready; `library`
        the MPI library's own version line.
        """
        ranks, current = self._set, self._current
        if ranks is None or ranks.is_lost:
            return []
        busy = current.pending if current is not None else set()
        return tabulate(ranks.hellos, ranks.survey(), busy, ranks.started)

    # On the pool's thread.

    def _on_thread(self, action: Callable[[], object]) -> None:
        """Run an action between jobs and wait for it; what it raises is raised here."""
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
                raise PoolError("the pool is closed: make a new RankPool")
        if raised:
            raise raised[0]

    def _serve(self) -> None:
        while (item := self._queue.get()) is not None:
            if not isinstance(item, Job):
                item()
                continue
            self._current = item
            try:
                self._execute(item)
            except Exception as error:  # noqa: BLE001 - a run must end, whatever happens; the error is its end
                if item.pending:
                    self._drop()  # some ranks are still at it
                self._fail(item, error)
            finally:
                item.sender.close()
                self._current = None
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
        if self._set is not None and not self._set.is_lost and self._set.workers >= workers:
            return self._set
        self._release()
        self._mailbox = queue.SimpleQueue()  # what the old ranks may still say is for nobody
        nursery = shared_nursery() if self.launch.is_here else None
        self._set = self._bring_up(workers, nursery, cancelled)
        return self._set

    def _bring_up(self, workers: int, nursery: Nursery | None, cancelled: Callable[[], bool]) -> RankSet:
        fresh = RankSet(max(workers, self.workers), self._mailbox, self.launch, nursery)
        try:
            fresh.start(lambda: cancelled() or self._closed)
        except PoolError:
            if nursery is None or not nursery.is_gone():
                raise
            # The nursery died meanwhile: each rank by itself, this once.
            return self._bring_up(workers, None, cancelled)
        return fresh

    def _release(self) -> None:
        if self._set is not None and not self._set.is_lost:
            self._set.close()
        self._set = None

    def _drop(self) -> None:
        if self._set is not None:
            self._set.kill()
        self._set = None

    def _execute(self, job: Job) -> None:
        run = job.run
        known = self._set
        if known is None or known.is_lost or known.workers < job.workers:
            run.post(Phase(text=f"starting {max(job.workers, self.workers)} MPI ranks"))
        try:
            ranks = self._ensure(job.workers, lambda: run.stop_level > 0)
        except PoolError:
            if run.stop_level == 0:
                raise
            run.fail(RunStopped("stopped while the ranks were starting"))
            return
        if run.stop_level or self._closed:
            run.fail(RunStopped("stopped before it began"))
            return
        if ranks.reason and ranks is not known:
            run.post(Note(text=f"ranks could not be forked, each has imported torch by itself: {ranks.reason}"))
        for text in crowded([ranks.hellos[rank] for rank in range(job.workers)]):
            run.post(Note(text=text))
        run.begin()
        run.post(Phase(text="running"))
        job.execute(ranks, self._mailbox, self._epoch)
        if job.failure is not None:
            self._epoch += 1
            self._fail(job, job.failure)


def check_workers(workers: Any) -> None:
    """Refuse what is no number of ranks."""
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise InputError(f"workers = {workers!r}: must be a whole number, 1 or more")


def crowded(hellos: Sequence[wire.Hello]) -> list[str]:
    """What is to be said of machines that have fewer CPUs than ranks."""
    notes, machines = [], dict.fromkeys(hello.machine for hello in hellos)
    for machine in machines:
        here = [hello for hello in hellos if hello.machine == machine]
        places = {hello.affinity for hello in here}
        cpus = here[0].cpus if len(places) == 1 else len(set().union(*places))  # or each is bound to some of them
        if len(here) > cpus:
            where = f" on {here[0].host}" if len(machines) > 1 else ""
            notes.append(f"{len(here)} workers share {cpus} CPUs{where}: they take turns, do not expect a speedup")
    return notes


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


def share_pool(pool: RankPool) -> None:
    """Make this the pool of the process; the one before ends."""
    global _shared  # noqa: PLW0603
    with _sharing:
        if _shared is not None:
            _shared.close()
        _shared = pool


def close_shared_pool() -> None:
    """End the shared pool, if there is one; the next `shared_pool()` makes another."""
    with _sharing:
        if _shared is not None:
            _shared.close()
