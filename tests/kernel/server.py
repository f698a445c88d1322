"""A Jupyter server with one kernel, and a client at that kernel: what stands and falls with the server."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jupyter_client import BlockingKernelClient

from tests.support import PATIENCE_SECONDS, wait_until


@dataclass
class Server:
    """The server's process, and how to ask it."""

    process: subprocess.Popen[bytes]
    token: str
    runtime: Path
    kernel: str = ""
    client: BlockingKernelClient | None = None

    def ask(self, method: str, path: str) -> Any:
        """An answer of its REST interface."""
        headers = {"Authorization": f"token {self.token}"}
        port = json.loads((self.runtime / f"jpserver-{self.process.pid}.json").read_text())["port"]
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", None, headers, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            return json.load(answer)

    def is_up(self) -> bool:
        try:
            return bool(self.ask("GET", "/api/status"))
        except (OSError, json.JSONDecodeError):  # no file of it yet, or half of one; nobody at the port (URLError)
            return False

    def start_kernel(self) -> None:
        self.kernel = self.ask("POST", "/api/kernels")["id"]
        file = self.runtime / f"kernel-{self.kernel}.json"
        assert wait_until(file.exists)
        self.client = BlockingKernelClient(connection_file=str(file))
        self.client.load_connection_file()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE_SECONDS)

    def restart_kernel(self) -> None:
        self.ask("POST", f"/api/kernels/{self.kernel}/restart")

    def run(self, code: str) -> None:
        """Run a cell that must succeed."""
        assert self.client is not None
        reply = self.client.execute_interactive(code, timeout=PATIENCE_SECONDS, output_hook=lambda message: None)
        assert reply["content"]["status"] == "ok", reply["content"]


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """A fresh one with a kernel that has the extension loaded; it may be dead when the block is left."""
    runtime, token = folder / "runtime", secrets.token_hex(16)
    environment = {
        **os.environ,
        "HOME": str(folder),
        "JUPYTER_RUNTIME_DIR": str(runtime),
        "JUPYTER_TOKEN": token,
        "JUPYTER_PLATFORM_DIRS": "1",
    }
    options = ["--ServerApp.port=0", "--no-browser", "--allow-root", f"--ServerApp.root_dir={folder}"]
    command = [sys.executable, "-m", "jupyter_server", *options]
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process,
    ):
        here = Server(process, token, runtime)
        try:
            assert wait_until(here.is_up), (folder / "log").read_text()
            here.start_kernel()
            here.run("%load_ext cooptim_lab")
            yield here
        finally:
            if here.client is not None:
                here.client.stop_channels()
            if process.poll() is None:
                process.terminate()
            process.wait(PATIENCE_SECONDS)
