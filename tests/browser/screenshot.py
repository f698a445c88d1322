"""The README's picture: the lab panel while it compares the three ways, taken from a real run.

python -m tests.browser.screenshot build/panel.png
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import FloatRect, expect

from tests.browser.lab import Lab, NotebookPage, chromium, find_chromium
from tests.browser.panel import Panel

WORKERS, SUBNETS, EPOCHS = 2, 8, 80
MOMENTS = (80, 72, 67)  # per cent of the whole that are done: the last third has begun; earlier if the camera is slow
PROGRESS = ".cooptim-live [role=progressbar]"
MOST = 600_000  # milliseconds for it all
MARGIN = 4  # around the panel, where the page is white; none below, where more text follows
VIEW = {"width": 1120, "height": 1200}


def take(picture: Path, place: Path, executable: str) -> None:
    """Run the panel in a Lab under `place`, and photograph it when the last of the three curves is on its way."""
    with Lab(place) as lab, chromium(executable) as browser:
        lab.write("panel.ipynb", "%load_ext cooptim_lab", f"%cooptim pool start --workers {WORKERS}", "%cooptim lab")
        page = browser.new_page(viewport=VIEW, device_scale_factor=2, color_scheme="light")
        notebook = NotebookPage.open(page, lab.address("panel.ipynb"))
        for index in range(3):
            notebook.run(index)
        panel = Panel(notebook.output(2))
        panel.way.select_option("compare all three")
        panel.set("workers", WORKERS)
        panel.set("N", SUBNETS)
        panel.set("epochs", EPOCHS)
        page.set_default_timeout(MOST)
        for moment in MOMENTS:
            expect(panel.run).to_be_enabled(timeout=MOST)
            panel.run.click()
            page.mouse.move(0, 0)
            page.locator(".cooptim-live[data-cooptim-state='running'][data-cooptim-curves='3']").wait_for()
            page.wait_for_function(f"() => document.querySelector('{PROGRESS}').ariaValueNow >= {moment}")
            page.screenshot(path=picture, clip=frame(panel))
            if panel.live.get_attribute("data-cooptim-state") == "running":
                return
        print("screenshot: the camera was too slow each time: the run has ended in this picture", file=sys.stderr)


def frame(panel: Panel) -> FloatRect:
    """What of the page is the panel, to the end of the live view."""
    box, chart = panel.output.locator(".widget-vbox").first.bounding_box(), panel.live.bounding_box()
    assert box and chart
    return {
        "x": chart["x"] - MARGIN,
        "y": box["y"] - MARGIN,
        "width": chart["width"] + 2 * MARGIN,
        "height": chart["y"] + chart["height"] - box["y"] + MARGIN,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.browser.screenshot", description="Take the README's picture."
    )
    parser.add_argument("picture", type=Path)
    picture = parser.parse_args().picture.resolve()
    executable = find_chromium()
    if executable is None:
        print("screenshot: chromium is not installed", file=sys.stderr)
        return 1
    picture.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        os.environ["COOPTIM_HOME"] = str(Path(place, "record"))  # this run is not one of the user's
        take(picture, Path(place), executable)
    return 0


if __name__ == "__main__":
    sys.exit(main())
