"""Bytes as they come, cut anywhere, to lines of text as a terminal would show them. Knows nothing of where they come
from.

Lines end at "\\n" and nowhere else. What follows a carriage return is written over what stood there: of a progress bar
that was drawn fifty times the last drawing is left.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field

SHOWN = 1000
"""Characters of an unfinished line that are shown, the last ones: it is shown again and again while it grows."""
CODE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")  # ECMA-48, 5.4: colours and the like, which take no room
ERASE = re.compile(r"\x1b\[[02]?K")  # the same, 8.3.41: to the end of the line, or all of it


@dataclass
class Lines:
    """One stream; what is left of a line waits for its end, in pieces: a line of many megabytes comes in hundreds."""

    decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))
    pieces: list[str] = field(default_factory=list)

    def feed(self, data: bytes, *, last: bool = False) -> str:
        """The lines that these bytes complete; with `last`, what is left too, as a line, if it can be seen."""
        whole, newline, left = self.decoder.decode(data, final=last).rpartition("\n")
        if not newline:
            self.pieces += [left] if left else []
        else:
            whole = settled("".join([*self.pieces, whole]))
            self.pieces = [left] if left else []
        if not last:
            return whole + newline
        rest, self.pieces = settled("".join(self.pieces)), []
        return whole + newline + (f"{rest}\n" if CODE.sub("", rest).strip() else "")

    @property
    def unfinished(self) -> str:
        """What there is to see of the line that has no end yet."""
        if any("\r" in piece for piece in self.pieces):
            text = "".join(self.pieces)
            shown = settled(text)
            self.pieces = [shown, "\r", text.rpartition("\r")[2]]  # what is written over is never needed again
            return shown[-SHOWN:]
        tail, size = list[str](), 0
        for piece in reversed(self.pieces):
            tail.append(piece)
            size += len(piece)
            if size >= SHOWN:
                break
        return "".join(reversed(tail))[-SHOWN:]


def settled(text: str) -> str:
    """Lines as they look when all their carriage returns are done."""
    return text if "\r" not in text else "\n".join(map(_settle, text.split("\n")))


def _settle(line: str) -> str:
    """One line: from the last writing on backwards, of each one what reaches beyond those that came after it."""
    shown, width = list[str](), 0
    for writing in reversed(line.split("\r")):
        if "\x1b" not in writing:
            if len(writing) > width:
                shown.append(writing[width:])
                width = len(writing)
            continue
        plain = ERASE.sub("", writing)
        room = len(CODE.sub("", plain))
        if room > width:
            shown.append(_beyond(plain, width))
            width = room
        if len(plain) < len(writing):  # what was there before is erased
            break
    return "".join(shown)


def _beyond(writing: str, width: int) -> str:
    """What is written after so many columns, codes between them with it."""
    place = 0
    while width:
        code = CODE.match(writing, place)
        place, width = (code.end(), width) if code else (place + 1, width - 1)
    return writing[place:]
