"""`make demo`: a notebook without a browser.

    python -m tests.demo [NOTEBOOK]

Runs the notebook (notebooks/00_start.ipynb) from top to bottom in a fresh kernel of the Python that runs this, prints
the last table it shows, and leaves the page as build/demo.html. The table goes to stdout, everything else to stderr.
Exits 1 with one line that names the cell when a cell fails. The kernel is shut down in all cases.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import sys
from pathlib import Path

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter

ROOT = Path(__file__).resolve().parents[1]
START = ROOT / "notebooks" / "00_start.ipynb"
PAGE = ROOT / "build" / "demo.html"
CELL_SECONDS = 300

WIDGET = "application/vnd.jupyter.widget-view+json"
COLUMN_GAP = re.compile(r"\S(?: {2,}|\t| *[|│] *)\S")


class DemoError(Exception):
    """What went wrong, in one line."""


class _OnlyThisPython(KernelSpecManager):
    """Whatever the name, the kernel is this interpreter: an installed "python3" may be another one."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(**get_kernel_dict())


class _KernelOfThisPython(AsyncKernelManager):
    def __init__(self, **options):
        super().__init__(kernel_spec_manager=_OnlyThisPython(), transport_encryption="auto", **options)


def run(notebook: nbformat.NotebookNode, folder: Path, *, cell_seconds: int = CELL_SECONDS) -> None:
    """Execute the notebook in place, its kernel's working directory being `folder`.

    Raises
    ------
    DemoError
        When a cell fails, outlasts `cell_seconds`, or takes the kernel down; it names the cell.
    """
    total = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in notebook.cells)
    place = "before the first cell"
    count = 0

    def started(cell: nbformat.NotebookNode, cell_index: int) -> None:
        nonlocal place, count
        count += 1
        place = f"code cell {count} of {total} ({_first_line(cell.source)})"
        print(f"demo: {place}", file=sys.stderr, flush=True)

    client = NotebookClient(
        notebook,
        kernel_manager_class=_KernelOfThisPython,
        kernel_name="python3",
        timeout=cell_seconds,
        interrupt_on_timeout=True,
        error_on_timeout={"ename": "TimeoutError", "evalue": f"not done after {cell_seconds} s", "traceback": []},
        on_cell_execute=started,
        resources={"metadata": {"path": str(folder)}},
    )
    stopped = False

    def stop(task: asyncio.Task) -> None:
        nonlocal stopped
        stopped = True
        client.shutdown_kernel = "immediate"  # it is busy, and would take its time
        task.cancel()

    async def execute() -> None:
        def take_signals(notebook: nbformat.NotebookNode) -> None:
            """After the client, whose own handlers pull the kernel from under the waiting cell."""
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stop, task)

        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        client.on_notebook_start = take_signals
        await client.async_execute()

    try:
        asyncio.run(execute())
    except CellExecutionError as error:
        raise DemoError(f"{place} failed: {error.ename}: {_first_line(error.evalue)}") from error
    except (DeadKernelError, asyncio.CancelledError) as error:  # a cancelled cell is taken for a dead kernel
        raise DemoError(f"{place}: {'stopped' if stopped else 'the kernel died'}") from error


def last_table(notebook: nbformat.NotebookNode) -> str | None:
    """The text of the last output that is a table, or None."""
    for cell in reversed(notebook.cells):
        for output in reversed(cell.get("outputs", [])):
            data = output.get("data", {})
            text = data.get("text/plain", "")
            if WIDGET not in data and ("<table" in data.get("text/html", "") or _in_columns(text)):
                return text.rstrip()
    return None


def _in_columns(text: str) -> bool:
    """Whether two lines or more have a gap between columns."""
    return sum(bool(COLUMN_GAP.search(line)) for line in text.splitlines()) >= 2


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[0] if lines else ""


def write_page(notebook: nbformat.NotebookNode, page: Path) -> None:
    html, _ = HTMLExporter().from_notebook_node(notebook)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(html, encoding="utf-8")


def _shown(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description="Run a notebook without a browser.")
    parser.add_argument("notebook", nargs="?", type=Path, default=START, metavar="NOTEBOOK")
    path = parser.parse_args(arguments).notebook.resolve()
    if not path.is_file():
        print(f"demo: no notebook {_shown(path)}", file=sys.stderr)
        return 1
    notebook = nbformat.read(path, as_version=4)
    PAGE.unlink(missing_ok=True)  # never the page of an earlier run beside the failure of this one
    try:
        run(notebook, path.parent)
        table = last_table(notebook)
        if table is None:
            raise DemoError(f"{_shown(path)} ran through but shows no table")
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    write_page(notebook, PAGE)
    print(table)
    print(f"demo: the page is {_shown(PAGE)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
