"""The panel's controls: a way, sliders, and the options that matter less, folded. What they ask for is `asking`.

Controls answer while a cell blocks: their messages travel on subshells (see `answer_on_own_subshell`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from cooptim_lab.codesign.tune import TuneSpec
from cooptim_lab.studies.speedup import SpeedupStudy
from cooptim_lab.training.spec import Sharded, Subnets

from .asking import WAYS
from .grammar import from_spec

MOST_WORKERS, MOST_SUBNETS, MOST_EPOCHS = 8, 64, 200
MOST_BATCH, MOST_SEED, MOST_REPEATS, MOST_SECONDS = 65536, 10**6, 99, 3600


def answer_on_own_subshell(widget: widgets.Widget) -> None:
    """Have a control's messages served where the page sent them.

    ipykernel 7.4 hands them to the shell that last wrote to the control, which is the main one, and busy while a cell
    runs. Its routing asks the comm; versions without that routing do the right thing by themselves.
    """
    if hasattr(widget.comm, "_reply_subshell_for"):
        widget.comm._reply_subshell_for = lambda data, default: default


class Controls:
    """All of them; `values` is what they say.

    Parameters
    ----------
    cpus
        That may be used here: sliders reach a little beyond, and a run beyond them is warned of.
    """

    def __init__(self, cpus: int) -> None:
        self.way = widgets.Dropdown(options=list(WAYS), value="sub-networks", description="way", **_wide())
        self.workers = _slider("workers", min(2, cpus), max(MOST_WORKERS, cpus))
        self.subnets = _slider("N", 4, MOST_SUBNETS)
        self.epochs = _slider("epochs", 20, MOST_EPOCHS)
        self.more: dict[str, widgets.Widget] = {
            "batch": _number("batch", 64, MOST_BATCH),
            "seed": _number("seed", 0, MOST_SEED, least=0),
            "aggregate": _choice(Sharded, "aggregate"),
            "shards": _choice(Sharded, "shards"),
            "split": _choice(Subnets, "split"),
            "fuse": _choice(Subnets, "fuse"),
            "data": _choice(Subnets, "data"),
            "repeats": _number("repeats", _default(SpeedupStudy, "repeats"), MOST_REPEATS),
            "budget": _number("seconds", int(_default(TuneSpec, "budget")), MOST_SECONDS),
        }
        self.way.observe(lambda change: self._repeat_as_usual(), "value")
        self.run = widgets.Button(description="Run", button_style="primary", icon="play")
        self.stop = widgets.Button(description="Stop", icon="stop", disabled=True)
        self.as_cell = widgets.Button(
            description="As a cell", icon="code", tooltip="the same as a line, in a new cell below (or copied)"
        )
        self.line = widgets.HTML()
        folded = widgets.Accordion(children=[widgets.VBox(list(self.more.values()))], titles=("more options",))
        folded.selected_index = None
        rows = widgets.Layout(flex_flow="row wrap")
        self.box = widgets.VBox(
            [
                widgets.HBox(
                    [widgets.VBox([self.way, self.epochs]), widgets.VBox([self.workers, self.subnets])], layout=rows
                ),
                folded,
                widgets.HBox([self.run, self.stop, self.as_cell], layout=rows),
                self.line,
            ]
        )

    @property
    def everything(self) -> tuple[widgets.Widget, ...]:
        """Whatever a page may send to."""
        sliders = (self.way, self.workers, self.subnets, self.epochs)
        return (*sliders, *self.more.values(), self.run, self.stop, self.as_cell)

    @property
    def values(self) -> dict[str, Any]:
        """By the options' names."""
        shown = {"workers": self.workers, "subnets": self.subnets, "epochs": self.epochs, **self.more}
        return {name: control.value for name, control in shown.items()}

    def observe(self, told: Callable[[], None]) -> None:
        """Call this after every change of what they say."""
        for control in (self.way, self.workers, self.subnets, self.epochs, *self.more.values()):
            control.observe(lambda change: told(), "value")

    def _repeat_as_usual(self) -> None:
        """Another study has another number of rounds, where nobody says."""
        if "repeats" in (way := WAYS[self.way.value]).takes:
            self.more["repeats"].value = _default(way.spec, "repeats")

    def show_what_is_used(self, *, is_running: bool) -> None:
        """Controls that the way has no use for are off, of the folded ones: not there."""
        takes = WAYS[self.way.value].takes
        self.run.disabled, self.stop.disabled = is_running, not is_running
        self.workers.disabled, self.subnets.disabled = "workers" not in takes, "subnets" not in takes
        for name, control in self.more.items():
            control.layout.display = None if name in takes else "none"


def _wide() -> dict[str, Any]:
    """A layout of its own for each: what hides one would hide all that share it."""
    return {"style": {"description_width": "70px"}, "layout": widgets.Layout(width="330px", max_width="100%")}


def _slider(label: str, value: int, most: int) -> widgets.IntSlider:
    made = widgets.IntSlider(value=value, min=1, max=most, description=label, continuous_update=False, **_wide())
    made.tooltip = label  # what a screen reader reads; ipywidgets writes "null" without
    return made


def _number(label: str, value: int, most: int, least: int = 1) -> widgets.BoundedIntText:
    return widgets.BoundedIntText(value=value, min=least, max=most, description=label, tooltip=label, **_wide())


def _choice(spec: Any, name: str) -> widgets.Dropdown:
    option = next(each for each in from_spec(spec) if each.name == name)
    return widgets.Dropdown(
        options=list(option.choices), value=option.default, description=name, tooltip=option.help, **_wide()
    )


def _default(spec: Any, name: str) -> Any:
    return next(each for each in from_spec(spec) if each.name == name).default
