"""What mpiexec starts in a rank's place: hands its environment and descriptors to the nursery, lives as long.

    python -I -S stub.py NURSERY_SOCKET DIRECTORY

Tiny on purpose: it imports nothing beyond what Python has loaded anyway. When it is killed its connection ends, and the
nursery ends the rank; when the rank has ended, it ends the same way.
"""

import json
import os
import signal
import socket
import sys


def main(nursery: str, directory: str) -> None:
    """Ask for a rank, wait for its end, end likewise."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(nursery)
    numbers = [0, 1, 2, *(int(os.environ[name]) for name in ("PMI_FD",) if name in os.environ)]
    request = {
        "directory": directory,
        "environment": dict(os.environ),
        "folder": os.getcwd(),  # noqa: PTH109 - pathlib would double the time to start
        "numbers": numbers,
    }
    data = json.dumps(request).encode()
    socket.send_fds(connection, [len(data).to_bytes(8, "big")], numbers)
    connection.sendall(data)
    for number in numbers[3:]:
        os.close(number)  # the rank's now: its end must be seen when the rank closes it
    status = connection.recv(16)
    if not status:
        sys.exit("the nursery is gone")
    code = os.waitstatus_to_exitcode(int(status))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
