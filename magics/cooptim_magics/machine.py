"""The machine as one screen: a drawing of what this process may use, in the order in which a newcomer asks for it.

It is given what was detected, and must not read anything itself. The drawing is made of plain elements that bear their
own words: where a page takes their styles away, as a code host does, the words are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from cooptim_lab.hardware import Hardware, rows, size

from .tables import Table

MOST_BOXES = 64
BAR = 24
"""Characters of a bar in text."""
USED, FREE = "#0072B2", "transparent"
BOX = "display:inline-block;border:1px solid currentColor;border-radius:3px;padding:1px 6px;margin:2px;"
LABEL = "display:inline-block;width:9em;vertical-align:top;opacity:0.75;"


class MachineScreen:
    """Warnings first, then the drawing, then every reading, folded.

    Parameters
    ----------
    found
        What was detected.
    """

    def __init__(self, found: Hardware) -> None:
        self._found = found
        readings = [list(row) for row in rows(found)]
        self._table = Table([["what", "value", "what it means"], *readings])

    def __repr__(self) -> str:
        found = self._found
        lines = [f"⚠ {warning}" for warning in found.warnings]
        drawn = {"cores": f"{_cores(found)}  {''.join(self._boxes('[■]', '[ ]'))}", **self._lines()}
        share = _share_in_use(found)
        if share is not None:
            drawn["memory"] += f"  {'█' * round(BAR * share)}{'░' * (BAR - round(BAR * share))}"
        lines += [f"{name:<14}{text}".rstrip() for name, text in drawn.items()]
        return "\n".join([*lines, "", repr(self._table)])

    def _repr_html_(self) -> str:
        found = self._found
        warnings = "".join(f"<div><b>⚠ {escape(warning)}</b></div>" for warning in found.warnings)
        usable = f'<span style="{BOX}background:{USED};color:white">core</span>'
        other = f'<span style="{BOX}opacity:0.4">not yours</span>'
        drawn = {"cores": f"{escape(_cores(found))}<br>{''.join(self._boxes(usable, other))}"}
        drawn |= {name: escape(text) for name, text in self._lines().items()}
        if (share := _share_in_use(found)) is not None:
            inner = f'<div style="width:{100 * share:.0f}%;height:100%;background:{USED}"></div>'
            bar = f"max-width:320px;height:10px;border:1px solid currentColor;border-radius:3px;background:{FREE}"
            drawn["memory"] += f'<div style="{bar}" role="img" aria-label="{100 * share:.0f} % in use">{inner}</div>'
        body = "".join(
            f'<div style="margin:4px 0"><span style="{LABEL}">{name}</span>'
            f'<div style="display:inline-block;max-width:calc(100% - 10em)">{text}</div></div>'
            for name, text in drawn.items()
        )
        count = len(self._table.cells) - 1
        folded = f"<details><summary>all {count} readings</summary>{self._table._repr_html_()}</details>"
        return f'<div class="cooptim-machine">{warnings}{body}{folded}</div>'

    def _boxes(self, usable: str, other: str) -> list[str]:
        """One for each of the host's cores: those that may be used first."""
        host, mine = self._found.cores_host, self._found.affinity
        if host is None and mine is None:
            return []
        mine = host if mine is None else mine
        all_of_them = max(host or 0, mine or 0)
        boxes = [usable if number < (mine or 0) else other for number in range(min(all_of_them, MOST_BOXES))]
        return [*boxes, f" and {all_of_them - MOST_BOXES} more"] if all_of_them > MOST_BOXES else boxes

    def _lines(self) -> dict[str, str]:
        found = self._found
        return {
            "processor": found.cpu or found.architecture,
            "caches": _caches(found),
            "memory": _memory(found),
            "GPU": _gpus(found),
            "vector units": _vector_units(found),
            "MPI": "none: pip install mpich"
            if found.mpi.mpiexec is None
            else _named(found.mpi.name, found.mpi.version),
            "torch": (found.torch.version or "not installed").partition("+")[0],
        }


def _cores(found: Hardware) -> str:
    if found.cores is None:
        return "unknown how many you may use"
    of_host = f" of the host's {found.cores_host}" if found.cores_host and found.cores < found.cores_host else ""
    limit = f", by a quota of {found.quota:.3g} CPUs" if found.quota is not None else ""
    return f"you may use {found.cores:.4g}{of_host}{limit}"


def _caches(found: Hardware) -> str:
    if not found.caches:
        return "unknown"
    shown = [cache for cache in found.caches if cache.name != "L1i"]
    return " · ".join(
        f"{cache.name} {size(cache.size)}" + (f" for {cache.shared_by} cores" if (cache.shared_by or 1) > 1 else "")
        for cache in shown
    )


def _memory(found: Hardware) -> str:
    if found.memory is None:
        return "unknown"
    limit = f", by a limit (the host has {size(found.memory_total)})" if found.memory_limit is not None else ""
    return f"{size(found.memory_available)} free of {size(found.memory)}{limit}"


def _share_in_use(found: Hardware) -> float | None:
    if not found.memory or found.memory_available is None:
        return None
    return min(1.0, max(0.0, 1 - found.memory_available / found.memory))


def _gpus(found: Hardware) -> str:
    if found.gpus is None:
        return "unknown: the driver does not answer"
    usable = [gpu for gpu in found.gpus if gpu.visible is not False]
    if not usable:
        return "none" if not found.gpus else "none that CUDA_VISIBLE_DEVICES lets you use"
    return " · ".join(f"{gpu.name or 'of unknown name'}, {size(gpu.memory)}" for gpu in usable)


def _vector_units(found: Hardware) -> str:
    if found.simd is None:
        return "unknown"
    means = "in hardware" if found.bf16 else "not in hardware: it saves memory, not time"
    return f"{', '.join(_last(found.simd)) or 'none'} · bf16 {means}"


def _last(names: Sequence[str]) -> Sequence[str]:
    """The newest of them say enough: who has AVX2 has SSE."""
    return names[-3:]


def _named(name: str | None, version: str | None) -> str:
    return f"{name or 'of unknown make'} {version or ''}".rstrip()
