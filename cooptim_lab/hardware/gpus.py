"""The NVIDIA GPUs, as NVML shows them: it answers at once, and without torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU: `memory` in bytes, `capability` as "9.0", `visible` whether CUDA_VISIBLE_DEVICES allows it."""

    name: str | None
    memory: int | None
    driver: str | None
    capability: str | None
    visible: bool | None


def find_gpus() -> tuple[Gpu, ...] | None:
    import pynvml as nvml

    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        absent = (nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED)
        return () if error.value in absent else None
    try:
        driver = _ask(nvml, "nvmlSystemGetDriverVersion")
        return tuple(_gpu(nvml, index, driver) for index in range(nvml.nvmlDeviceGetCount()))
    except nvml.NVMLError:
        return None
    finally:
        _ask(nvml, "nvmlShutdown")


def _ask(nvml: Any, name: str, *arguments: Any) -> Any:
    """One answer of NVML's, or None: a driver may refuse one (memory, where it is shared) and answer others."""
    try:
        answer = getattr(nvml, name)(*arguments)
    except nvml.NVMLError:
        return None
    return answer.decode() if isinstance(answer, bytes) else answer  # bytes or str, by nvidia-ml-py's version


def _gpu(nvml: Any, index: int, driver: str | None) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = _ask(nvml, "nvmlDeviceGetMemoryInfo", handle)
    capability = _ask(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
    return Gpu(
        name=_ask(nvml, "nvmlDeviceGetName", handle),
        memory=None if memory is None else int(memory.total),
        driver=driver,
        capability=None if capability is None else ".".join(map(str, capability)),
        visible=_visible(index, _ask(nvml, "nvmlDeviceGetUUID", handle)),
    )


def _visible(index: int, uuid: str | None) -> bool | None:
    """Whether CUDA_VISIBLE_DEVICES (indices or UUIDs; unset: all) names this GPU; None for parts of GPUs (MIG).

    `index` is NVML's, by PCI address; between unlike cards CUDA counts so only with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return True
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    if any(name.startswith("MIG") for name in names):
        return None
    return any(name == str(index) or (name.startswith("GPU-") and (uuid or "").startswith(name)) for name in names)
