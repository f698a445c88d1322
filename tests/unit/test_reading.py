"""What the reading thread makes of what ranks print, and of ranks that end: told once, with all that had ended by then,
last words first."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from multiprocessing import Pipe
from multiprocessing.connection import Connection, Listener

import pytest

from cooptim_lab.ranks.mailbox import Lost, Printed, Printing
from cooptim_lab.ranks.reading import STREAMS, Reader
from cooptim_lab.ranks.stream import TELL_SECONDS
from cooptim_lab.ranks.wire import Begun, Finished, Told
from tests.support import PATIENCE_SECONDS


class Guard:
    """A guard that ends when told."""

    def __init__(self):
        self.said, self.pid = deque(), 0
        self.output, self.end = os.pipe()

    def fileno(self):
        return self.output

    def read(self):
        return os.read(self.output, 1000).decode() or None

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


def unfinished(mailbox, rank=0, stream="stdout"):
    who, message = mailbox.get(timeout=PATIENCE_SECONDS)
    assert (who, message.stream) == (rank, stream)
    assert isinstance(message, Printing)
    return message.text


def test_an_unfinished_line_is_told_while_it_grows_and_then_its_end(launch):
    reader, ranks, mailbox = launch
    reader.start()
    out = ranks[0].streams["stdout"]
    for said in ("a", "ab", "abc"):
        out.sendall(said[-1:].encode())
        assert unfinished(mailbox) == said
    out.sendall(b"d\n")
    assert mailbox.get(timeout=PATIENCE_SECONDS) == (0, Printed("stdout", "abcd\n"))
    with pytest.raises(queue.Empty):
        mailbox.get(timeout=0.3)


def test_of_a_bar_that_is_drawn_often_a_few_states_are_told_and_always_the_last(launch):
    reader, ranks, mailbox = launch
    reader.start()
    began = time.monotonic()
    for i in range(500):
        ranks[1].streams["stderr"].sendall(f"\r{i}".encode())
        time.sleep(0.001)
    lasted, told = time.monotonic() - began, [unfinished(mailbox, 1, "stderr")]
    while told[-1] != "499":
        told.append(unfinished(mailbox, 1, "stderr"))
    assert 3 <= len(told) <= lasted / TELL_SECONDS + 2
    assert told == sorted(told, key=int)
    ranks[1].streams["stderr"].sendall(b"\n")
    assert mailbox.get(timeout=PATIENCE_SECONDS) == (1, Printed("stderr", "499\n"))


def test_whole_lines_in_a_row_are_never_unfinished(launch):
    reader, ranks, mailbox = launch
    reader.start()
    lines = "".join(f"{i:06} {'x' * 93}\n" for i in range(20_000))
    ranks[0].streams["stdout"].sendall(lines.encode())
    ranks[0].control.send(Finished(1, b""))
    heard = list[object]()
    while not isinstance(heard[-1] if heard else None, Finished):
        heard.append(mailbox.get(timeout=PATIENCE_SECONDS)[1])
    assert "".join(message.text for message in heard if isinstance(message, Printed)) == lines
    assert sum(isinstance(message, Printing) for message in heard) < 3


def test_a_line_that_is_gone_without_an_end_is_told_to_be_gone(launch):
    reader, ranks, mailbox = launch
    reader.start()
    ranks[0].streams["stderr"].sendall(b"\r100%")
    assert unfinished(mailbox, stream="stderr") == "100%"
    ranks[0].streams["stderr"].sendall(b"\r    \r")
    ranks[0].control.send(Finished(1, b""))
    assert unfinished(mailbox, stream="stderr").strip() == ""
    assert mailbox.get(timeout=PATIENCE_SECONDS) == (0, Finished(1, b""))


def test_what_comes_out_of_the_launcher_is_of_no_rank_unless_it_is_the_launchers(launch):
    reader, ranks, mailbox = launch
    reader.start()
    os.write(reader._guard.end, f"spawned\n[proxy:0@here] odd\n\n{'=' * 83}\n=   BAD TERMINATION OF ONE\n".encode())
    os.write(reader._guard.end, b"more\n")
    assert mailbox.get(timeout=PATIENCE_SECONDS) == (None, Printed("stdout", "spawned\n"))
    ranks[0].control.send(Begun(1))
    assert mailbox.get(timeout=PATIENCE_SECONDS) == (0, Begun(1))


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
