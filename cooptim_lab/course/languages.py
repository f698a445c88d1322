"""What a student reads, in every language that there is: texts are kept side by side, and none can lack one.

Which language is read: `COOPTIM_LANG` says it, else the name of the folder that the notebook lies in, else English.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import InputError

CHOICE = "COOPTIM_LANG"
"""Environment variable: en or zh."""


@dataclass(frozen=True)
class Text:
    """One text in English and in Simplified Chinese; `{name}` is filled in alike in both."""

    en: str
    zh: str

    def __str__(self) -> str:
        return str(getattr(self, language()))

    def of(self, **filled: object) -> str:
        """In the reader's language, filled in."""
        return str(self).format(**filled)


LANGUAGES = tuple(item.name for item in fields(Text))


def language() -> str:
    """The reader's.

    Raises
    ------
    InputError
        When `COOPTIM_LANG` names none that there is.
    """
    chosen = os.environ.get(CHOICE, "")
    if chosen and chosen not in LANGUAGES:
        raise InputError(f"{CHOICE} = {chosen}: choose one of {', '.join(LANGUAGES)}, or leave it unset")
    if chosen:
        return chosen
    try:
        folder = Path.cwd().name
    except OSError:  # the folder was deleted under the notebook
        folder = ""
    return folder if folder in LANGUAGES else LANGUAGES[0]
