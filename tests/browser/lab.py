"""A JupyterLab of one's own, and a page of it: what the browser tests and the README's picture stand on.

It knows JupyterLab and Chromium. It must not know what `%cooptim` shows.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import psutil
from ipykernel.kernelspec import get_kernel_dict
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from tests.support import PATIENCE_SECONDS, wait_until

PATIENCE = 1000 * PATIENCE_SECONDS  # Playwright counts in milliseconds
END_SECONDS = 10  # the server ends its kernels first

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

CELL = "window.jupyterapp.shell.currentWidget.content.widgets[index].model"

SETTINGS = {
    # All cells are in the page, also those out of sight.
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    # A test saves when it wants to.
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
    # Nothing is asked of the network, and no toast lies over the page.
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}


def find_chromium() -> str | None:
    """The distribution's browser, or None."""
    return shutil.which("chromium")


@contextmanager
def chromium(executable: str) -> Iterator[Browser]:
    """A browser without a window, with a fresh profile."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Lab:
    """A JupyterLab server on a loopback port, with homes of its own under `place`; its kernels are this Python.

    Parameters
    ----------
    place
        An empty directory. Notebooks are in `place/notebooks`; `place/server.log` is what the server said.
    """

    def __init__(self, place: Path) -> None:
        self.folder, self.log = place / "notebooks", place / "server.log"
        self._place = place
        self._token = secrets.token_hex(16)
        self._port = _free_port()
        self._runtime = place / "runtime"

    def __enter__(self) -> Lab:
        homes = {
            "HOME": self._place / "home",
            "IPYTHONDIR": self._place / "ipython",
            "JUPYTER_CONFIG_DIR": self._place / "config",
            "JUPYTER_DATA_DIR": self._place / "data",
            "JUPYTER_PATH": self._place / "kernels-first",
            "JUPYTER_RUNTIME_DIR": self._runtime,
            "JUPYTERLAB_SETTINGS_DIR": self._place / "settings",
            "JUPYTERLAB_WORKSPACES_DIR": self._place / "workspaces",
        }
        for directory in (self.folder, *homes.values()):
            directory.mkdir(parents=True)
        _write_json(homes["JUPYTER_CONFIG_DIR"] / "labconfig" / "default_setting_overrides.json", SETTINGS)
        spec = {**get_kernel_dict(), "display_name": "Python 3"}  # its argv begins with sys.executable
        _write_json(homes["JUPYTER_PATH"] / "kernels" / "python3" / "kernel.json", spec)
        command = [
            *(sys.executable, "-m", "jupyterlab", "--no-browser"),
            *(["--allow-root"] if os.geteuid() == 0 else []),
            f"--ServerApp.root_dir={self.folder}",
            "--ServerApp.ip=127.0.0.1",
            f"--ServerApp.port={self._port}",
            "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={self._token}",
            "--ServerApp.terminals_enabled=False",
            "--LabApp.extension_manager=readonly",
            "--LabApp.expose_app_in_browser=True",
        ]
        environment = {**os.environ, **{name: str(path) for name, path in homes.items()}}
        with self.log.open("wb") as log:
            self._server = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
            )
        if not wait_until(lambda: self._is_serving() or self._server.poll() is not None) or self._server.poll():
            self._end()
            raise RuntimeError(f"JupyterLab did not start:\n{self.log.read_text()}")
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    @property
    def pid(self) -> int:
        return self._server.pid

    def processes(self) -> set[int]:
        """Living processes of this server, however related: kernels, guards and ranks inherit its mark."""
        found = set()
        for process in psutil.process_iter():
            try:
                is_ours = process.environ().get("JUPYTER_RUNTIME_DIR") == str(self._runtime)
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.add(process.pid)
            except psutil.Error:  # it ended meanwhile, or belongs to somebody else
                continue
        return found

    def write(self, name: str, *cells: str) -> Path:
        """A notebook of code cells."""
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(source) for source in cells],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        )
        path = self.folder / name
        nbformat.write(notebook, path)
        return path

    def address(self, name: str) -> str:
        """Of a notebook's page. A fresh workspace each time: what was open before is not opened again."""
        workspace = secrets.token_hex(4)
        return f"http://127.0.0.1:{self._port}/lab/workspaces/{workspace}/tree/{quote(name)}?token={self._token}"

    def _is_serving(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def _end(self) -> None:
        """By pid: a server with kernels is told to end them, one without (which at times hangs when told) is killed."""
        if self.processes() != {self.pid}:
            self._server.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._server.wait(END_SECONDS)
        self._server.kill()
        self._server.wait()
        if not wait_until(lambda: not self.processes(), END_SECONDS):
            left = [psutil.Process(pid) for pid in self.processes()]
            said = [" ".join(process.cmdline()) for process in left]
            for process in left:
                process.kill()
            raise RuntimeError(f"left behind by JupyterLab: {said}")


class NotebookPage:
    """A notebook open in a browser's page."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.set_default_timeout(PATIENCE)

    @classmethod
    def open(cls, page: Page, address: str) -> NotebookPage:
        """Open it, and wait for its kernel."""
        notebook = cls(page)
        page.goto(address)
        notebook.wait_for_kernel()
        return notebook

    def open_without_kernel(self, address: str) -> None:
        """Open it as somebody does whose Jupyter has no kernel for it: none is started."""
        self.page.route("**/api/kernelspecs*", lambda route: route.fulfill(json={"default": "", "kernelspecs": {}}))
        self.page.goto(address)
        self.page.locator(".jp-Notebook .jp-Cell").first.wait_for()

    def cell(self, index: int) -> Locator:
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def output(self, index: int) -> Locator:
        """What a cell shows."""
        return self.cell(index).locator(".jp-Cell-outputWrapper")

    def wait_for_kernel(self, status: str = "idle") -> None:
        """Until there is a kernel, and it is idle (or busy). A cell run earlier would be dropped."""
        self.page.wait_for_function(
            """status => {
              const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
              const kernel = context?.session?.kernel;
              return context?.isReady && kernel?.connectionStatus === "connected" && kernel.status === status;
            }""",
            arg=status,
        )

    def start(self, index: int) -> None:
        """Run a cell as a user does; do not wait for it."""
        self.cell(index).locator(".jp-InputArea-editor").click()
        self.page.keyboard.press("Control+Enter")

    def run(self, index: int) -> None:
        """Run a cell to its end."""
        self.start(index)
        self.page.wait_for_function(
            f"index => {CELL}.executionState === 'idle' && {CELL}.executionCount > 0", arg=index
        )

    def is_running(self, index: int) -> bool:
        """Whether a cell goes on. (The kernel's own status says idle when a subshell has answered meanwhile.)"""
        return self.page.evaluate(f"index => {CELL}.executionState === 'running'", index)

    def command(self, name: str, **arguments: Any) -> None:
        """A command of JupyterLab's own, without waiting for what it may ask."""
        self.page.evaluate("([name, given]) => { window.jupyterapp.commands.execute(name, given); }", [name, arguments])

    def save(self) -> None:
        """Save, and wait until the file is written."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
