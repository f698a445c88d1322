"""RankPool: MPI ranks that stand ready, as their user sees them. Start, submit, stop, close.

What is asked is checked here and handed to the thread that carries the pool (carrier.py); how ranks are started, spoken
to and lost is not known here.
"""

from __future__ import annotations

import atexit
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import InputError, LabError, PoolError
from ..hardware import allowed_cpus
from ..runs.run import Run
from .carrier import CLOSED, Carrier
from .cpus import count_cpus
from .job import Finish, Job, give_values, pack_calls
from .launch import Launch
from .parcel import machine
from .spmd import pull_name, push_names
from .survey import tabulate


class RankPool:
    """Ranks that serve one job after the other.

    A rank that dies at rest is no failure of the job that meets it: that job begins again, on other ranks.

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
        workers = (self.launch.room or 1) if workers is None else workers
        check_workers(workers)
        self.launch.check_room(workers)
        self._ids = itertools.count(1)
        self._carrier = Carrier(self.launch, workers)
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
        if self.is_closed:
            raise PoolError(CLOSED)
        check_workers(workers)
        self.launch.check_room(workers)
        if per_rank is not None and len(per_rank) != workers:
            raise InputError(f"per_rank has {len(per_rank)} parts for {workers} ranks: give one for each")
        calls, sender = pack_calls(program, arguments, [{}] * workers if per_rank is None else per_rank)
        self._carrier.submit(Job(next(self._ids), run, calls, sender, workers, finish, is_cooperative, timeout, rescue))

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
        self._carrier.workers = max(self.workers, workers)

    def start(self) -> None:
        """Start the ranks now and wait for them, instead of at the first job.

        Raises
        ------
        PoolError
        """
        self._carrier.start()

    def stop(self) -> None:
        """Let the ranks leave, after the jobs that are queued. The next job starts new ones."""
        self._carrier.stop()

    def close(self) -> None:
        """End the pool for good: the running job fails, the ranks are ended at once."""
        if self.is_closed:
            return
        atexit.unregister(self.close)
        self._carrier.close()

    @property
    def workers(self) -> int:
        """How many ranks a start brings, at the least."""
        return self._carrier.workers

    @property
    def is_closed(self) -> bool:
        """Whether it has ended for good."""
        return self._carrier.is_closed

    @property
    def cpus(self) -> int:
        """How many CPUs its ranks may use, on all their machines: of a pool that is elsewhere, once they are there."""
        ranks = self._carrier.ranks
        return allowed_cpus() if self.launch.is_here or ranks is None else count_cpus(ranks.hellos.values())

    @property
    def is_busy(self) -> bool:
        """Whether a job is running or waiting."""
        return self._carrier.is_busy

    @property
    def processes(self) -> dict[int, int]:
        """By rank, the process of each rank that is on this machine; none while no ranks are started."""
        ranks = self._carrier.ranks
        if ranks is None or ranks.is_lost:
            return {}
        return {rank: hello.pid for rank, hello in dict(ranks.hellos).items() if hello.machine == machine()}

    def status(self) -> list[dict[str, Any]]:
        """One row per rank: rank, host, pid, state, memory, threads, seconds, library; none while no ranks are started.

        `state` is idle or busy; `memory` the proportional set size in bytes and `threads` how many the process has, as
        the rank itself says, or None from one that does not answer at once; `seconds` since they were ready; `library`
        the MPI library's own version line.
        """
        ranks, busy = self._carrier.ranks, self._carrier.busy
        if ranks is None or ranks.is_lost:
            return []
        return tabulate(ranks.hellos, ranks.survey(), busy, ranks.started)


def check_workers(workers: Any) -> None:
    """Refuse what is no number of ranks."""
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise InputError(f"workers = {workers!r}: must be a whole number, 1 or more")
