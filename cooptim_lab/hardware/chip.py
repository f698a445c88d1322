"""What one CPU is and can do: its name, its vector units, its caches. How many there are is for `cpus`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .readings import GIB, KIB, MIB, cpu_list, number, text

_SIMD = {  # the name a reader knows -> the names in Linux's cpuinfo and in macOS's hw.optional
    "sse4.2": ("sse4_2",),
    "avx": ("avx", "avx1_0"),
    "avx2": ("avx2", "avx2_0"),
    "fma": ("fma",),
    "avx512f": ("avx512f",),
    "avx512_vnni": ("avx512_vnni", "avx512vnni"),
    "avx512_bf16": ("avx512_bf16",),
    "amx_tile": ("amx_tile",),
    "amx_bf16": ("amx_bf16",),
    "amx_int8": ("amx_int8",),
    "neon": ("asimd", "neon", "advsimd"),
    "sve": ("sve",),
    "sve2": ("sve2",),
    "bf16": ("bf16", "feat_bf16"),
}
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}

_ARM_PARTS = {  # (implementer, part), as Linux's arch/arm64/include/asm/cputype.h has them: Arm's cpuinfo has no names
    ("0x41", "0xd08"): "Arm Cortex-A72",
    ("0x41", "0xd0b"): "Arm Cortex-A76",
    ("0x41", "0xd0c"): "Arm Neoverse N1",
    ("0x41", "0xd40"): "Arm Neoverse V1",
    ("0x41", "0xd49"): "Arm Neoverse N2",
    ("0x41", "0xd4f"): "Arm Neoverse V2",
}


@dataclass(frozen=True)
class Cache:
    """One cache as the first allowed CPU sees it: `name` is L1d, L1i, L2, ...; `size` in bytes; CPUs that share it."""

    name: str
    size: int | None
    shared_by: int | None


def first_cpu(root: Path) -> dict[str, str]:
    """The first CPU's block of /proc/cpuinfo. The rest repeats it, and is long to read where there are hundreds."""
    facts: dict[str, str] = {}
    try:
        with (root / "proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, colon, value = line.partition(":")
                if colon:
                    facts[name.strip()] = value.strip()
                elif facts and not line.strip():
                    break
    except OSError:
        return {}
    return facts


def cpu_name(first_cpu: dict[str, str], sysctl: dict[str, str]) -> str | None:
    part = (first_cpu.get("CPU implementer", "").lower(), first_cpu.get("CPU part", "").lower())
    return first_cpu.get("model name") or _ARM_PARTS.get(part) or sysctl.get("machdep.cpu.brand_string")


def vector_units(first_cpu: dict[str, str], sysctl: dict[str, str]) -> tuple[str, ...] | None:
    """The vector extensions worth knowing for training, in the order of `_SIMD`; None when the flags cannot be read."""
    flags = set((first_cpu.get("flags") or first_cpu.get("Features") or "").split())
    flags |= {
        name.split(".")[-1].lower() for name, on in sysctl.items() if name.startswith("hw.optional.") and on == "1"
    }
    if not flags:
        return None
    return tuple(name for name, aliases in _SIMD.items() if not flags.isdisjoint(aliases))


def has_bf16(simd: tuple[str, ...] | None) -> bool | None:
    """Whether a CPU with these vector units computes in bfloat16."""
    return None if simd is None else not _BF16.isdisjoint(simd)


def has_amx(simd: tuple[str, ...] | None) -> bool | None:
    """Whether a CPU with these vector units has Intel's matrix units."""
    return None if simd is None else "amx_tile" in simd


def find_caches(root: Path, affinity: set[int] | None, sysctl: dict[str, str]) -> tuple[Cache, ...] | None:
    """The caches of the first allowed CPU that shows any: one CPU stands for all, since a host may have hundreds."""
    for cpu in [*sorted(affinity or ()), 0]:
        folders = sorted((root / f"sys/devices/system/cpu/cpu{cpu}/cache").glob("index[0-9]*"))
        caches = tuple(cache for cache in map(_cache, folders) if cache is not None)
        if caches:
            return caches
    names = {"L1d": "hw.l1dcachesize", "L1i": "hw.l1icachesize", "L2": "hw.l2cachesize", "L3": "hw.l3cachesize"}
    return tuple(Cache(name, number(sysctl[key]), None) for name, key in names.items() if key in sysctl) or None


def _cache(folder: Path) -> Cache | None:
    level, kind = number(text(folder / "level")), text(folder / "type")
    if level is None:
        return None
    name = f"L{level}" + {"Data": "d", "Instruction": "i"}.get(kind or "", "")
    return Cache(name, _bytes(text(folder / "size")), cpu_list(text(folder / "shared_cpu_list")))


def _bytes(written: str | None) -> int | None:
    """32768 for "32K", as sysfs writes the sizes of caches."""
    if not written:
        return None
    unit = {"K": KIB, "M": MIB, "G": GIB}.get(written[-1])
    size = number(written[:-1] if unit else written)
    return None if size is None else size * (unit or 1)
