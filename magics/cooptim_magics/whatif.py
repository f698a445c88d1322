"""What if: sliders under a simulation, by which another machine is asked about without measuring anything again.

What it says is reckoned in the kernel, from what the simulation has measured; trainings of the same task that this
notebook has seen stand beside it. It must not know which command made it.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets

from cooptim_lab.scaling.here import Figures, Simulated
from cooptim_lab.studies.simulate import SimulateSpec, foretell

from .controls import answer_on_own_subshell
from .curves import Curve
from .picture import Picture
from .plots import mime_bundle
from .simulating import simulation_notes, simulation_table
from .tables import Table

MOST_HOSTS, MOST_CORES = 64, 128
LINKS = ("100Mbit", "1Gbit", "10Gbit", "25Gbit", "100Gbit", "400Gbit")


class WhatIf:
    """Sliders for hosts, cores and the link; below them the figure and the table of that machine.

    Parameters
    ----------
    figures
        What was measured.
    spec
        What was asked about first: its numbers of workers stay.
    cores
        Of a host, where the spec says none.
    real
        Trainings to set beside it.
    """

    def __init__(self, title: str, figures: Figures, spec: SimulateSpec, cores: int, real: Sequence[Curve]) -> None:
        self._title, self._figures, self._spec, self._real = title, figures, spec, tuple(real)
        self.hosts = _steps("hosts", _powers(MOST_HOSTS, spec.hosts), spec.hosts)
        self.cores = _steps("cores", _powers(MOST_CORES, spec.cores or cores), spec.cores or cores)
        links = LINKS if spec.link in (*LINKS, "") else (spec.link, *LINKS)
        self.link = _steps("link", links, spec.link or "10Gbit")
        self.plot, self.table = widgets.Image(format="png"), widgets.HTML()
        controls = (self.hosts, self.cores, self.link)
        for control in controls:
            control.observe(lambda change: self.show(), "value")
        row = widgets.HBox(list(controls), layout=widgets.Layout(flex_flow="row wrap"))
        self.box = widgets.VBox([widgets.HTML("<b>What if</b>"), row, self.plot, self.table])
        for control in controls:
            answer_on_own_subshell(control)
        self.show()

    def bundle(self) -> dict[str, Any]:
        """For `display(..., raw=True)`: the sliders, and for a saved notebook, in which nobody reckons, a line."""
        shown = dict(self.box._repr_mimebundle_())
        return {
            **shown,
            "text/plain": "What if: a running notebook has sliders here, for hosts, cores and link.",
        }

    @property
    def rows(self) -> list[Simulated]:
        """What is foretold of the machine that the sliders say."""
        told = {"hosts": self.hosts.value, "cores": self.cores.value, "link": self.link.value}
        spec = SimulateSpec(**{**self._spec.options(), **told, "workers": self._spec.workers})
        machine = spec.machine(self.cores.value, is_measured=False)
        return foretell(self._figures, sorted(set(spec.workers)), machine, spec.sync_every)

    def show(self) -> None:
        """Draw it anew."""
        rows = self.rows
        picture = Picture(self._title)
        picture.kind, picture.state, picture.simulated, picture.real = "simulate", "done", rows, self._real
        self.plot.value = base64.b64decode(mime_bundle(picture)["image/png"])
        self.table.value = Table(simulation_table(rows), simulation_notes(rows, self._figures))._repr_html_()


def _steps(name: str, options: Sequence[Any], value: Any) -> widgets.SelectionSlider:
    made = widgets.SelectionSlider(
        options=[(str(each), each) for each in options], value=value, description=name, continuous_update=False
    )
    made.tooltip = name  # what a screen reader reads
    return made


def _powers(most: int, own: int) -> list[int]:
    """1, 2, 4, ... and what was asked for."""
    return sorted({own, *(2**k for k in range(most.bit_length()))})
