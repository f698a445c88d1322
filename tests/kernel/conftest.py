"""Real kernels of the Python that runs the tests, spoken to as a notebook page speaks to them."""

from __future__ import annotations

import queue
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import KernelManager

from tests.support import PATIENCE_SECONDS

Message = dict[str, Any]


class OnlyThisPython(KernelSpecManager):
    """Whatever the name: an installed "python3" may be another Python."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="tests", language="python")


@dataclass
class Outcome:
    """What became of a cell."""

    reply: Message
    messages: list[Message]
    """What it published, in order."""
    text: str
    """What it printed."""


class Kernel:
    """A kernel and the one page that is connected to it."""

    def __init__(self, manager: KernelManager) -> None:
        self.manager = manager
        self.published: list[Message] = []
        self._replies: dict[str, Message] = {}
        self._begun = 0
        self.client = manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE_SECONDS)

    def begin(self, code: str) -> str:
        """Send a cell; returns its message id."""
        self.read()
        self._begun = len(self.published)
        return self.client.execute(code)

    def finish(self, cell: str, seconds: float = PATIENCE_SECONDS) -> Outcome:
        """Wait for a cell's reply and for all that it published."""
        assert self.wait_until(lambda: self.has_ended(cell), seconds), f"the cell did not end in {seconds} s"
        return Outcome(self._replies[cell], self.published_by(cell), self.printed_by(cell))

    def run(self, code: str) -> Outcome:
        """Run a cell that must succeed."""
        outcome = self.finish(self.begin(code))
        assert outcome.reply["status"] == "ok", outcome.reply.get("traceback", outcome.reply)
        return outcome

    def has_ended(self, cell: str) -> bool:
        """Whether a cell's reply has come and it has published all."""
        self.read()
        is_idle = any(
            m["msg_type"] == "status" and m["content"]["execution_state"] == "idle" for m in self.published_by(cell)
        )
        return is_idle and cell in self._replies

    def published_by(self, cell: str) -> list[Message]:
        return [m for m in self.published if m["parent_header"].get("msg_id") == cell]

    def printed_by(self, cell: str) -> str:
        return "".join(m["content"]["text"] for m in self.published_by(cell) if m["msg_type"] == "stream")

    def widget_states(self, comm: str | None = None) -> list[dict[str, Any]]:
        """The updates of widgets since the last cell was sent, in order; of one of them if `comm` is given."""
        self.read()
        updates = [m["content"] for m in self.published[self._begun :] if m["msg_type"] == "comm_msg"]
        return [c["data"]["state"] for c in updates if "state" in c["data"] and comm in (None, c["comm_id"])]

    def is_training(self) -> bool:
        """Whether a chart says so that was shown since the last cell was sent."""
        return any("epoch" in state.get("status", "") for state in self.widget_states())

    def wait_until(self, condition: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> bool:
        """Whether a condition on what was published came true before the deadline."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.read(wait=0.05)
        return True

    def read(self, wait: float = 0) -> None:
        """Take in what has come."""
        try:
            while True:
                self.published.append(self.client.get_iopub_msg(timeout=wait))
                wait = 0
        except queue.Empty:
            pass
        try:
            while True:
                message = self.client.get_shell_msg(timeout=0)
                self._replies[message["parent_header"]["msg_id"]] = message["content"]
        except queue.Empty:
            pass

    # What JupyterLab does with subshells.

    def create_subshell(self) -> str:
        """A thread of the kernel that answers while a cell runs."""
        self.client.control_channel.send(self.client.session.msg("create_subshell_request"))
        reply = self.client.get_control_msg(timeout=PATIENCE_SECONDS)
        assert reply["msg_type"] == "create_subshell_reply", reply["msg_type"]
        return reply["content"]["subshell_id"]

    def click(self, comm: str, subshell: str) -> None:
        """Press a button, as the page does: a message on the button's comm, addressed to a subshell."""
        self._send(subshell, "comm_msg", comm_id=comm, data={"method": "custom", "content": {"event": "click"}})

    def evaluate(self, expression: str, subshell: str) -> str:
        """The value's text, computed on a subshell after everything sent there before."""
        options = {"silent": False, "store_history": False, "allow_stdin": False, "stop_on_error": True}
        expressions = {"value": expression}
        sent = self._send(subshell, "execute_request", code="", user_expressions=expressions, **options)
        value = self.finish(sent).reply["user_expressions"]["value"]
        assert value["status"] == "ok", value
        return value["data"]["text/plain"]

    def _send(self, subshell: str, kind: str, **content: Any) -> str:
        message = self.client.session.msg(kind, content)
        message["header"]["subshell_id"] = subshell
        self.client.shell_channel.send(message)
        return message["header"]["msg_id"]


@contextmanager
def started() -> Iterator[Kernel]:
    """A fresh kernel with the extension loaded, gone afterwards."""
    manager = KernelManager(kernel_spec_manager=OnlyThisPython(), transport_encryption="auto")
    manager.start_kernel()
    try:
        kernel = Kernel(manager)
        kernel.run("%load_ext cooptim_lab")
        yield kernel
        kernel.client.stop_channels()
    finally:
        manager.shutdown_kernel(now=not manager.is_alive())
        manager.context.destroy(linger=0)


@pytest.fixture(scope="session")
def kernel() -> Iterator[Kernel]:
    """One for all tests that leave it as it was. Its ranks start with the first run."""
    with started() as one:
        yield one


@pytest.fixture
def start_kernel():
    """Starts kernels of this test's own: `with start_kernel() as kernel`."""
    return started
