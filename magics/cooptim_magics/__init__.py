"""The face of cooptim_lab: `%cooptim`, the live view, the panel. It imports the engine, never the other way round.

`register` puts two names into the shell, the magic and its completer, and costs next to nothing: everything else is
imported when the first line is typed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cooptim_lab.ranks.forking import close_shared_nursery, shared_nursery

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def register(shell: InteractiveShell) -> None:
    """Give the shell `%cooptim` and `%%cooptim`, and their completion."""

    def cooptim(line: str, cell: str | None = None) -> None:
        """Train a network as it is, as N sub-networks and as data shards over MPI ranks, and watch the speedup.

        %cooptim                     one screen: this machine, the commands, what to try next
        %cooptim compare             the current task each way, one table
        %cooptim lab                 sliders for workers and N, Run, Stop, live curves
        %%cooptim task               the body defines model and data: your own task
        %cooptim subnets --help      what a command can be told
        """
        from .dispatch import dispatch
        from .session import session

        dispatch(session(shell), line, cell)

    shell.register_magic_function(cooptim, "line_cell", "cooptim")
    shell.Completer.custom_matchers.append(_match)
    shared_nursery()  # begins to import torch in a process of its own, so that ranks are there when they are asked for


def unregister(shell: InteractiveShell) -> None:
    """Take them away again, and let the ranks leave."""
    for kind in ("line", "cell"):
        shell.magics_manager.magics[kind].pop("cooptim", None)
    if _match in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.remove(_match)
    from cooptim_lab.ranks.shared import close_shared_pool

    from .session import forget

    forget(shell)
    close_shared_pool()
    close_shared_nursery()


def _match(context: Any) -> dict[str, Any]:
    """IPython's completion of the line that holds the magic; anywhere else it stands back.

    A matcher and not a `complete_command` hook: a hook's words are mixed with Python's own, and lose their dashes.
    """
    from IPython.core.completer import SimpleCompletion

    from .dispatch import complete

    before = context.text_until_cursor
    magics = ("%cooptim ",) if context.cursor_line else ("%cooptim ", "%%cooptim ")
    if not before.lstrip().startswith(magics):
        return {"completions": [], "suppress": False}
    fragment = "" if before[-1].isspace() else before.split()[-1]
    words = [SimpleCompletion(text=word, type="option" if word[0] == "-" else "choice") for word in complete(before)]
    return {"completions": words, "matched_fragment": fragment, "suppress": True, "ordered": True}


_match.matcher_api_version = 2  # type: ignore[attr-defined]
_match.matcher_identifier = "cooptim"  # type: ignore[attr-defined]
