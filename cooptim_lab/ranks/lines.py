"""Bytes as they come, cut anywhere, to whole lines of text. Knows nothing of where they come from."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field


@dataclass
class Lines:
    """One stream; what is left of a line waits for its end."""

    decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))
    pending: str = ""

    def feed(self, data: bytes, *, last: bool = False) -> str:
        """The lines that these bytes complete; with `last`, what is left too, as a line."""
        text = self.pending + self.decoder.decode(data, final=last)
        whole, newline, self.pending = text.rpartition("\n")
        if last and self.pending:
            whole, newline, self.pending = whole + newline + self.pending, "\n", ""
        return whole + newline
