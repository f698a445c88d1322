"""An exception of a user's program, as text: what it says, and where in the user's own code it was raised.

Knows nothing of ranks.
"""

from __future__ import annotations

import traceback
from pathlib import Path

PACKAGE = Path(__file__).parent.parent


def one_line(error: BaseException) -> str:
    """The error's kind and message."""
    return " ".join(traceback.format_exception_only(error)[-1].split())


def own_traceback(error: BaseException) -> str:
    """The traceback from the first frame that is not this package's: where the user's own code begins."""
    frames = error.__traceback__
    while frames is not None and Path(frames.tb_frame.f_code.co_filename).is_relative_to(PACKAGE):
        frames = frames.tb_next
    frames = frames or error.__traceback__  # all of it is ours: then ours is what must be seen
    return "".join(traceback.format_exception(type(error), error, frames))
