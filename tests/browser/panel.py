"""The `%cooptim lab` panel as a page shows it: what a test may do with it, and what it says."""

from __future__ import annotations

from playwright.sync_api import Locator, expect

from tests.browser.lab import PATIENCE
from tests.support import wait_until


class Panel:
    """The lab panel in a cell's output."""

    def __init__(self, output: Locator) -> None:
        self.output = output
        self.live = output.locator(".cooptim-live")
        self.run = output.get_by_role("button", name="Run")
        self.stop = output.get_by_role("button", name="Stop")
        self.as_cell = output.get_by_role("button", name="As a cell")
        self.way = output.get_by_role("combobox").first
        self.runs = output.get_by_role("listbox")

    def slide(self, label: str, *keys: str) -> str:
        """Press keys on the slider of this label; what its readout says then."""
        row = self.output.locator(".widget-slider").filter(has_text=label)
        for key in keys:
            row.get_by_role("slider").press(key)
        return row.locator(".widget-readout").inner_text()

    def set(self, label: str, value: int) -> None:
        """Press keys until the slider's readout says a value."""
        said = int(self.slide(label, "Home"))
        assert self.slide(label, *["ArrowRight"] * (value - said)) == str(value)

    def unfold(self, title: str) -> None:
        """Open what is folded under a title."""
        self.output.get_by_text(title).click()

    def expect_state(self, state: str) -> None:
        expect(self.live).to_have_attribute("data-cooptim-state", state, timeout=PATIENCE)

    def expect_more_points(self, times: int) -> None:
        """The number of points grows, as often as asked."""
        for _ in range(times):
            seen = self.points
            assert wait_until(lambda seen=seen: self.points > seen), f"still {seen} points"

    @property
    def points(self) -> int:
        return int(self.live.get_attribute("data-cooptim-points") or 0)
