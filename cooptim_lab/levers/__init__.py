"""What a plan is made of: levers, each one thing of how a network is trained that can be another than the default.

A room of its own under the ways, and not in `codesign/`, where plans are found: every way of training obeys a plan, by
the few calls of `plan.Plan`, and knows no single lever. A lever is a class in a file of its group; one that a notebook
defines is known by its name as soon as the class is there (`lever.Lever`).
"""

from __future__ import annotations

from . import hardware, optimizing, precision, running, structure
from .lever import Lever, Seen
from .own_loop import apply
from .plan import Plan

__all__ = ["Lever", "Plan", "Seen", "apply", "hardware", "optimizing", "precision", "running", "structure"]
