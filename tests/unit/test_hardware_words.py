"""What is said of a machine: its surprises, its one line, its table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cooptim_lab.hardware import Hardware, rows, size, summary
from cooptim_lab.hardware.chip import Cache
from cooptim_lab.hardware.gpus import Gpu
from cooptim_lab.hardware.libraries import Library, Torch
from cooptim_lab.hardware.machine import surprises
from cooptim_lab.hardware.mpi import Mpi
from cooptim_lab.hardware.readings import GIB, MIB

UNREAD: dict[str, Any] = dict.fromkeys(("simd", "bf16", "amx", "caches", "memory_available", "gpus"))


@pytest.fixture
def plain() -> Hardware:
    """A machine with nothing to warn of."""
    return Hardware(
        host="desk",
        system="Linux 6.18",
        architecture="x86_64",
        python="3.12.1",
        cpu="Some Xeon",
        cores_host=8,
        cores_physical=8,
        affinity=8,
        quota=None,
        memory_total=8 * GIB,
        memory_limit=None,
        memory_available=6 * GIB,
        shm_total=GIB,
        shm_free=GIB,
        simd=("avx2", "avx512f", "amx_tile", "amx_bf16"),
        bf16=True,
        amx=True,
        caches=(Cache("L2", MIB, 1),),
        gpus=(),
        mpi=Mpi("/env/bin/mpiexec", "MPICH", "5.0.2", "4.1.2"),
        libraries=(),
        torch=Torch("2.13.0+cpu"),
    )


def test_nothing_to_warn_of(plain: Hardware) -> None:
    assert tuple(surprises(plain)) == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"quota": 0.5}, "quota is 0.5 of a core"),
        ({"quota": 2.5}, "quota is 2.5 cores though 8"),
        ({"affinity": 2}, "2 of the host's 8 cores"),
        ({"cores_physical": 4}, "8 logical cores share 4 physical"),
        ({"shm_free": 64 * MIB}, "/dev/shm has 64 MiB free"),
        ({"memory_limit": 512 * MIB}, "only 512 MiB of memory"),
        ({"mpi": Mpi(None, None, None, None)}, "mpiexec not found"),
    ],
)
def test_each_doubt_is_one_line(plain: Hardware, change: dict[str, Any], words: str) -> None:
    (line,) = surprises(replace(plain, **change))
    assert words in line
    assert "\n" not in line


def test_summary(plain: Hardware) -> None:
    expected = "8 cores of Some Xeon (AMX, bf16 yes) · 8 GiB · no GPU · MPICH 5.0.2 · torch 2.13.0"
    assert summary(plain) == expected
    assert summary(replace(plain, quota=0.5)).startswith("0.5 of 8 cores of Some Xeon")
    h100 = Gpu("H100", 80 * GIB, "580.1", "9.0", True)
    assert "· 2 × H100 ·" in summary(replace(plain, gpus=(h100, h100)))
    assert "· no GPU visible ·" in summary(replace(plain, gpus=(replace(h100, visible=False),)))
    assert "· GPU unknown ·" in summary(replace(plain, gpus=None))


def test_rows_say_unknown(plain: Hardware) -> None:
    values = {what: value for what, value, _ in rows(replace(plain, **UNREAD))}
    for what in ("vector units", "bf16", "AMX", "caches", "memory available", "GPU"):
        assert values[what] == "unknown"
    assert values["memory limit"] == "none"


def test_the_third_column_is_short(plain: Hardware) -> None:
    far = Mpi("/very/long" * 20 + "/bin/mpiexec", "MPICH", "5.0.2", "4.1.2")
    loaded = Torch("2.13.0+cu128", 128, "cuda 12.8", "AVX512", ("avx512f",), True)
    full = replace(
        plain,
        mpi=far,
        torch=loaded,
        affinity=1024,
        shm_total=1023 << 40,
        caches=(Cache("L3", 32 * MIB, 128), Cache("L4", None, None)),
        gpus=(Gpu("NVIDIA H100 80GB HBM3", 80 * GIB, "580.105.08", "9.0", None),),
        libraries=(Library("openmp", "libgomp", None, 128),),
    )
    nothing = replace(plain, **UNREAD, mpi=Mpi(None, None, None, None), torch=Torch(None))
    assert [text for each in (full, nothing) for _, _, text in rows(each) if len(text) > 60] == []
    (place,) = (text for what, _, text in rows(full) if what == "MPI")
    assert place.startswith("…")
    assert place.endswith("/bin/mpiexec")


def test_sizes_are_binary() -> None:
    sizes = (None, 0, 32 << 10, 1000 << 10, 25276502016, 2 << 50)
    assert [size(count) for count in sizes] == ["unknown", "0 B", "32 KiB", "1000 KiB", "23.5 GiB", "2048 TiB"]
