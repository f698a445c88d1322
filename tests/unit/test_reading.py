"""What the reading thread makes of ranks that end: told once, with all that had ended by then, last words first."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
from collections import deque
from multiprocessing import Pipe
from multiprocessing.connection import Connection, Listener

import pytest

from cooptim_lab.ranks.mailbox import Lost, Printed
from cooptim_lab.ranks.reading import STREAMS, Reader
from cooptim_lab.ranks.wire import Begun, Told
from tests.support import PATIENCE_SECONDS


class Guard:
    """A guard that ends when told."""

    def __init__(self):
        self.said = deque()
        self.output, self.end = os.pipe()

    def fileno(self):
        return self.output

    def read(self):
        return bool(os.read(self.output, 100))

    def close(self):
        os.close(self.output)


class Rank:
    """The other side of a rank's connections."""

    def __init__(self, rank, reader):
        mine, self.control = Pipe()
        reader.add_control(rank, mine, is_here=True)
        self.streams = {}
        for role in STREAMS:
            its, self.streams[role] = socket.socketpair()
            reader.add_stream(rank, role, Connection(its.detach()))

    def end(self):
        for connection in (self.control, *self.streams.values()):
            connection.close()


@pytest.fixture
def launch():
    """A reader that is not started, two ranks, the mailbox."""
    mailbox, guard = queue.SimpleQueue(), Guard()
    reader = Reader(guard, mailbox, lambda: None)
    ranks = [Rank(0, reader), Rank(1, reader)]
    yield reader, ranks, mailbox
    os.close(guard.end)
    reader.end(PATIENCE_SECONDS)
    assert mailbox.get(timeout=PATIENCE_SECONDS) == (None, Lost())
    for rank in ranks:
        rank.end()


def test_those_found_gone_at_the_same_look_are_told_together(launch):
    reader, ranks, mailbox = launch
    ranks[0].control.send(Begun(1))
    ranks[1].streams["stderr"].sendall(b"last words")
    for rank in ranks:
        rank.end()
    reader.start()
    heard = [mailbox.get(timeout=PATIENCE_SECONDS) for _ in range(3)]
    first, lost = heard.pop()
    assert (first, lost.others) in [(0, {1}), (1, {0})]
    assert sorted(heard, key=lambda item: item[0]) == [(0, Begun(1)), (1, Printed("stderr", "last words\n"))]
    assert reader.is_broken


def test_one_that_goes_on_is_not_told_with_it(launch):
    reader, ranks, mailbox = launch
    ranks[1].control.send(Told(None, None))
    ranks[0].end()
    reader.start()
    assert mailbox.get(timeout=PATIENCE_SECONDS) == (0, Lost())
    ranks[1].control.send(Begun(2))
    assert mailbox.get(timeout=PATIENCE_SECONDS) == (1, Begun(2))


FORKS = """
import os, sys, time
from cooptim_lab.ranks.meeting import Meeting
from cooptim_lab.ranks.wire import Begun
control = Meeting(sys.argv[1], b"key").connect("control", 0)
child = os.fork()
if child == 0:
    os.close(0), os.close(1)
    time.sleep(600)
print(child, flush=True)
sys.stdin.read()
for job in range(30):
    control.send(Begun(job))
os._exit(1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has handles of processes")
@pytest.mark.parametrize("is_gone_before", [False, True])
def test_one_that_has_forked_is_gone_when_its_process_is_after_all_it_has_sent(launch, tmp_path, is_gone_before):
    reader, _, mailbox = launch
    command, pipe = [sys.executable, "-c", FORKS, str(tmp_path / "socket")], subprocess.PIPE
    with (
        Listener(command[-1], "AF_UNIX", authkey=b"key") as listener,
        subprocess.Popen(command, stdin=pipe, stdout=pipe) as process,
    ):
        control = listener.accept()
        child = int(process.stdout.readline())
        try:
            control.recv()  # its role
            if is_gone_before:
                process.communicate()
            reader.add_control(2, control, is_here=True)
            for role in STREAMS:
                its, mine = socket.socketpair()
                mine.close()
                reader.add_stream(2, role, Connection(its.detach()))
            reader.start()
            process.stdin.close()
            heard = [mailbox.get(timeout=PATIENCE_SECONDS) for _ in range(31)]
            assert heard == [*((2, Begun(job)) for job in range(30)), (2, Lost())]
        finally:
            os.kill(child, signal.SIGKILL)
