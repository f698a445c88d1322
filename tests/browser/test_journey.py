"""What a user does with the panel in a real browser: sliders, Run, Stop, save, reopen; and what may happen meanwhile.

The script of the live view says in `data-cooptim-*` attributes what it shows: the tests read those, not pixels.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.lab import PATIENCE, Lab, NotebookPage, chromium, find_chromium
from tests.browser.panel import Panel
from tests.support import ROOT, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.mpi, pytest.mark.timeout(300)]

LOAD = "%load_ext cooptim_lab"
# Long enough that a run ends only when it is stopped.
TASK = """%%cooptim task
import torch
from torch import nn
torch.manual_seed(0)
X = torch.randn(20_000, 64)
data = X, (X[:, 0] + X[:, 1] > 0).long()
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))"""
PANEL = "%cooptim lab"
BLOCK = """import time
print("blocking", flush=True)
for _ in range(6000):
    time.sleep(0.1)"""
TINY = TASK.replace("20_000", "400") + "\nname = 'a tiny one'"
SCREENS = ROOT / "build" / "screens"
"""Where pictures of each state are left, to be looked at."""
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = find_chromium()
    if executable is None:
        pytest.skip("chromium is not installed")
    with chromium(executable) as started:
        yield started


@pytest.fixture
def lab(nothing_left: Callable[[], set[int]], tmp_path: Path) -> Iterator[Lab]:
    """It asks for `nothing_left` so that it ends before that looks."""
    with Lab(tmp_path / "lab") as server:
        yield server


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context() as context:
        yield context.new_page()


def open_panel(page: Page, lab: Lab, name: str, *more: str) -> tuple[NotebookPage, Panel]:
    """A notebook with the extension loaded, the task defined and the panel open as its third cell."""
    lab.write(name, LOAD, TASK, PANEL, *more)
    notebook = NotebookPage.open(page, lab.address(name))
    for index in range(3):
        notebook.run(index)
    panel = Panel(notebook.output(2))
    panel.live.wait_for()
    return notebook, panel


def shoot(place: Locator, name: str) -> None:
    SCREENS.mkdir(parents=True, exist_ok=True)
    place.screenshot(path=SCREENS / f"{name}.png")


def pngs(path: Path, cell: int) -> list[bytes]:
    """The images that a saved notebook holds under a cell."""
    outputs = nbformat.read(path, as_version=4).cells[cell].outputs
    return [base64.b64decode(o.data["image/png"]) for o in outputs if "image/png" in o.get("data", {})]


def test_sliders_run_stop_save_reopen(lab: Lab, page: Page, nothing_left: Callable[[], set[int]]) -> None:
    notebook, panel = open_panel(page, lab, "panel.ipynb")

    assert panel.slide("workers", "Home") == "1"
    assert panel.slide("workers", "ArrowRight") == "2"
    assert panel.slide("N", "ArrowRight", "ArrowRight") == "6"
    assert panel.slide("epochs", "End") == "200"
    panel.run.click()
    panel.expect_state("running")
    panel.expect_more_points(3)
    expect(panel.live.locator(".cooptim-strip")).to_be_visible()
    shoot(notebook.output(2), "panel, running")
    assert nothing_left() < lab.processes(), "the ranks are among what is looked for at the end"
    expect(panel.run).to_be_disabled()

    panel.stop.click()
    panel.expect_state("stopped")
    expect(panel.run).to_be_enabled(timeout=PATIENCE)
    expect(panel.output).to_contain_text("stopped")
    shoot(notebook.output(2), "panel, stopped")
    notebook.output(2).locator("img").wait_for(state="attached")
    notebook.save()
    (figure,) = pngs(lab.folder / "panel.ipynb", cell=2)
    assert figure.startswith(PNG)

    notebook.command("kernelmenu:shutdown")
    assert wait_until(lambda: lab.processes() == {lab.pid})

    with page.context.new_page() as elsewhere:
        reopened = NotebookPage(elsewhere)
        reopened.open_without_kernel(lab.address("panel.ipynb"))
        image = reopened.output(2).locator("img")
        expect(image).to_be_visible(timeout=PATIENCE)
        assert image.evaluate("image => image.naturalWidth") > 400
        assert lab.processes() == {lab.pid}


def test_stop_while_a_cell_blocks_then_refresh_then_restart(
    lab: Lab, page: Page, nothing_left: Callable[[], set[int]]
) -> None:
    notebook, panel = open_panel(page, lab, "blocked.ipynb", BLOCK)
    panel.slide("epochs", "End")
    panel.run.click()
    panel.expect_more_points(1)
    notebook.start(3)
    expect(notebook.output(3)).to_contain_text("blocking", timeout=PATIENCE)

    panel.stop.click()
    panel.expect_state("stopped")
    expect(panel.run).to_be_enabled(timeout=PATIENCE)
    panel.run.click()
    panel.expect_state("running")
    assert notebook.is_running(3), "all of this while the cell blocks"
    assert nothing_left()

    # An interrupt ends the cell, not the run that the panel has started.
    notebook.command("notebook:interrupt-kernel")
    expect(notebook.output(3)).to_contain_text("KeyboardInterrupt", timeout=PATIENCE)
    panel.expect_more_points(1)

    notebook.save()
    page.reload()
    notebook.wait_for_kernel()
    panel.expect_state("running")
    panel.expect_more_points(2)
    expect(panel.live).to_have_attribute("data-cooptim-kernel", "there")

    notebook.command("notebook:restart-kernel")
    page.get_by_role("dialog").locator(".jp-mod-accept").click()
    expect(panel.live).to_have_attribute("data-cooptim-kernel", "gone", timeout=PATIENCE)
    expect(panel.live).to_contain_text("kernel")
    shoot(notebook.output(2), "panel, dead kernel")
    assert wait_until(lambda: len(lab.processes()) == 2), "the server and the new kernel, no rank"

    notebook.wait_for_kernel()
    notebook.command("kernelmenu:shutdown")
    assert wait_until(lambda: lab.processes() == {lab.pid})


def test_another_task_options_a_cell_and_earlier_runs(
    lab: Lab, page: Page, nothing_left: Callable[[], set[int]]
) -> None:
    notebook, panel = open_panel(page, lab, "more.ipynb", TINY, "%cooptim hardware", "%cooptim hardware --live")
    expect(panel.live.locator(".cooptim-strip")).to_be_visible(timeout=PATIENCE)
    shoot(notebook.output(2), "panel, idle")
    notebook.run(3)
    expect(panel.output).to_contain_text("trains a tiny one", timeout=PATIENCE)

    panel.way.select_option("sharded, central server")
    panel.set("epochs", 3)
    panel.unfold("more options")
    panel.output.get_by_role("combobox").nth(1).select_option("ordered")
    expect(panel.output).to_contain_text("--aggregate ordered", timeout=PATIENCE)
    shoot(notebook.output(2), "panel, options")
    for _ in range(2):
        panel.run.click()
        panel.expect_state("done")
        expect(panel.run).to_be_enabled(timeout=PATIENCE)
    assert nothing_left()

    panel.as_cell.click()
    expect(notebook.cell(3)).to_contain_text(
        "%cooptim sharded --aggregate ordered --workers 2 --epochs 3", timeout=PATIENCE
    )
    notebook.run(3)
    expect(notebook.output(3)).to_contain_text("held-out accuracy", timeout=PATIENCE)
    shoot(notebook.output(3), "a run, done")

    panel.unfold("runs of this notebook")
    expect(panel.runs.locator("option")).to_have_count(3, timeout=PATIENCE)  # the cell's too
    panel.runs.select_option(index=[0, 1])
    expect(panel.live).to_contain_text("2 runs", timeout=PATIENCE)
    expect(panel.live).to_have_attribute("data-cooptim-curves", "2")
    shoot(notebook.output(2), "panel, two runs")

    notebook.run(5)
    expect(notebook.output(5)).to_contain_text("you may use")
    shoot(notebook.output(5), "hardware")
    notebook.run(6)
    expect(notebook.output(6).locator(".cooptim-strip")).to_be_visible(timeout=PATIENCE)
    shoot(notebook.output(6), "hardware, live")

    notebook.command("apputils:change-theme", theme="JupyterLab Dark")
    page.wait_for_function("() => document.body.dataset.jpThemeLight === 'false'")
    shoot(notebook.output(2), "panel, dark")
    page.set_viewport_size({"width": 640, "height": 1200})  # of which the file browser takes a part
    shoot(notebook.output(2), "panel, narrow")
    box, room = panel.live.bounding_box(), notebook.output(2).bounding_box()
    assert box and room and box["x"] + box["width"] <= room["x"] + room["width"] + 1, "wider than the page"

    notebook.command("kernelmenu:shutdown")
    assert wait_until(lambda: lab.processes() == {lab.pid})
