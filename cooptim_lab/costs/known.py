"""The ceilings that were measured on this machine before: a file for each fingerprint, beside the record of runs.

What is damaged, older or another machine's counts as not there: then they are measured again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..hardware.ceilings import Ceilings, digest, fingerprint
from ..runs import store

FOLDER = "ceilings"


def place(print: Mapping[str, Any]) -> Path:
    """Where the ceilings of a fingerprint are kept."""
    return store.home() / FOLDER / f"{digest(print)}.json"


def known(print: Mapping[str, Any] | None = None) -> Ceilings | None:
    """The ceilings of this machine as it is now, or None where they have to be measured."""
    print = fingerprint() if print is None else print
    try:
        kept = Ceilings.from_summary(json.loads(place(print).read_text(encoding="utf-8")))
    except (OSError, ValueError):  # a torn file, bytes that are no text, a line that is no JSON, another version
        return None
    return kept if dict(kept.fingerprint) == dict(print) else None


def last() -> Ceilings | None:
    """Those that were kept last, of whatever fingerprint: to say what has changed since."""
    every = []
    for path in (store.home() / FOLDER).glob("*.json"):
        try:
            every.append(Ceilings.from_summary(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError):
            continue
    return max(every, key=lambda kept: kept.taken, default=None)


def keep(ceilings: Ceilings) -> None:
    """Keep them for the next time: all of them, or what was there before.

    Raises
    ------
    OSError
    """
    store.write(place(ceilings.fingerprint), json.dumps(ceilings.summary()).encode())
