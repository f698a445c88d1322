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


@dataclass(frozen=True)
class GpuLoad:
    """One GPU at a moment: `busy` the share of the last moments in which it computed, `memory` and `limit` in bytes."""

    busy: float | None
    memory: int | None
    limit: int | None

    def summary(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"busy": self.busy, "memory": self.memory, "limit": self.limit}


class GpuMeter:
    """Reads the load of all GPUs that this process may use, as long as it is not closed. Without a driver, of none."""

    def __init__(self) -> None:
        import pynvml as nvml

        self._nvml, self._handles = nvml, list[Any]()
        try:
            nvml.nvmlInit()
            self._is_open = True
        except nvml.NVMLError:
            self._is_open = False
            return
        for index in range(_ask(nvml, "nvmlDeviceGetCount") or 0):
            handle = _ask(nvml, "nvmlDeviceGetHandleByIndex", index)
            if handle is not None and _visible(index, _ask(nvml, "nvmlDeviceGetUUID", handle)) is not False:
                self._handles.append(handle)

    def read(self) -> tuple[GpuLoad, ...]:
        """Now."""
        return tuple(map(self._load, self._handles))

    def close(self) -> None:
        """Let go of the library."""
        if self._is_open:
            self._is_open, self._handles = False, []
            _ask(self._nvml, "nvmlShutdown")

    def _load(self, handle: Any) -> GpuLoad:
        rates, memory = (
            _ask(self._nvml, f"nvmlDeviceGet{what}", handle) for what in ("UtilizationRates", "MemoryInfo")
        )
        return GpuLoad(
            busy=None if rates is None else rates.gpu / 100,
            memory=None if memory is None else int(memory.used),
            limit=None if memory is None else int(memory.total),
        )
