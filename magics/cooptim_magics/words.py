"""Figures of speech: seconds and shares as people read them. It knows no run, no table and no figure."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, in three figures at most."""
    if seconds < 120:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def percent(share: float) -> str:
    """0.9666 as 96.7 %."""
    return f"{share:.1%}".replace("%", " %")
