"""What speaks for many ranks where there is no machine for them: a launcher that is all its ranks itself.

    python tests/benchmarks/voices.py RANKS ...       # as RankPool(launcher=...) has it started

It comes over TCP, three connections for each rank as ranks do, as from hosts of 64 ranks each, and answers on each
what a rank would. So the kernel's side of a launch is real at any number of ranks, and nothing else of it is: no MPI,
no torch, no program but those of `rank_tasks` that sleep and report, which it knows by their names.
"""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle

from cooptim_lab.ranks import wire
from cooptim_lab.ranks.meeting import Meeting
from cooptim_lab.ranks.parcel import unpack
from cooptim_lab.runs.events import Points

ON_A_HOST = 64
AT_ONCE = 16
"""Ranks that connect at the same time."""


@dataclass
class Reports:
    """What a rank has yet to report of a job, and how often it does."""

    rank: int
    job: int
    every: float
    of: int
    done: int = 0


class Voices:
    """Of so many ranks."""

    def __init__(self, ranks: int, meeting: Meeting) -> None:
        self._ranks, self._meeting = ranks, meeting
        self._due: list[tuple[float, int, Reports]] = []
        self._numbers = itertools.count()
        with ThreadPoolExecutor(AT_ONCE) as many:
            self._connections = list(many.map(self._connect, range(ranks)))
        self._selector = selectors.DefaultSelector()
        for rank, connections in enumerate(self._connections):
            self._selector.register(connections[-1], selectors.EVENT_READ, rank)

    def _connect(self, rank: int) -> list[Connection]:
        host = f"host{rank // ON_A_HOST}"
        connections = [self._meeting.connect(role, rank) for role in ("stdout", "stderr", "control")]
        connections[-1].send(wire.Hello(rank, self._ranks, host, os.getpid(), "none", host, ON_A_HOST, ()))
        return connections

    def serve(self) -> None:
        """Answer until told to leave, or the kernel is gone."""
        left = 0
        while left < self._ranks:
            patience = max(0.0, self._due[0][0] - time.monotonic()) if self._due else None
            for chosen, _ in self._selector.select(patience):
                try:
                    message = self._connections[chosen.data][-1].recv()
                except (EOFError, OSError):
                    return
                left += isinstance(message, wire.Leave)
                self._take(chosen.data, message)
            while self._due and self._due[0][0] <= time.monotonic():
                self._report_again(*heapq.heappop(self._due))

    def _take(self, rank: int, message: Any) -> None:
        match message:
            case wire.Start(job=job):
                self._send(rank, wire.Begun(job))
                self._run(rank, message)
            case wire.Aside(job=job):
                self._send(rank, wire.Begun(job))
            case wire.Ask():
                self._send(rank, wire.Told(None, 1))
            case wire.Stop(job=job):
                self._finish(rank, job)

    def _run(self, rank: int, start: wire.Start) -> None:
        program, arguments = unpack(start.calls[0])
        match program.__name__:
            case "nothing":
                self._finish(rank, start.job)
            case "report_at_once":
                for _ in range(arguments["count"]):
                    self._report(rank, start.job)
                self._finish(rank, start.job)
            case "report_steadily":
                every = arguments["every"]
                reports = Reports(rank, start.job, every, round(arguments["seconds"] / every))
                self._report_at(time.monotonic() + every * rank / self._ranks, reports)
            case "sleep":
                pass  # until it is stopped
            case name:
                raise NotImplementedError(f"nobody has taught it {name}")

    def _report_at(self, due: float, reports: Reports) -> None:
        heapq.heappush(self._due, (due, next(self._numbers), reports))

    def _report_again(self, due: float, number: int, reports: Reports) -> None:
        self._report(reports.rank, reports.job)
        reports.done += 1
        if reports.done < reports.of:
            self._report_at(due + reports.every, reports)
        else:
            self._finish(reports.rank, reports.job, value=reports.done)

    def _report(self, rank: int, job: int) -> None:
        self._send(rank, wire.Happened(job, (Points(rank=rank, curve="here", x=(0.0,), y=(0.0,)),)))

    def _finish(self, rank: int, job: int, value: Any = None) -> None:
        self._send(rank, wire.Finished(job, cloudpickle.dumps(value)))

    def _send(self, rank: int, message: Any) -> None:
        self._connections[rank][-1].send(message)


if __name__ == "__main__":
    Voices(int(sys.argv[1]), Meeting.loads(sys.stdin.buffer.readline())).serve()
