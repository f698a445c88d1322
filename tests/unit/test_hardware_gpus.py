"""The GPUs, on a stand-in for NVML: the machine that runs the tests may have none."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from cooptim_lab.hardware.gpus import Gpu, find_gpus
from cooptim_lab.hardware.readings import GIB


class FakeNvml:
    """The part of nvidia-ml-py's interface that is asked, with nvidia-ml-py's own errors."""

    def __init__(self, error: int | None = None, refuses: tuple[str, ...] = ()) -> None:
        import pynvml

        self.NVMLError = pynvml.NVMLError
        self.NVML_ERROR_LIBRARY_NOT_FOUND = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
        self.NVML_ERROR_DRIVER_NOT_LOADED = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
        self.error, self.open = error, False
        for name in refuses:
            setattr(self, name, self._refuse)

    def _refuse(self, *_: object) -> None:
        raise self.NVMLError(3)  # not supported

    def nvmlInit(self) -> None:
        if self.error is not None:
            raise self.NVMLError(self.error)
        self.open = True

    def nvmlShutdown(self) -> None:
        self.open = False

    def nvmlSystemGetDriverVersion(self) -> bytes:
        return b"580.1"

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "H100"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=80 * GIB)

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        return (9, 0)

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}abc"


def gpus_of(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml) -> tuple[Gpu, ...] | None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    return find_gpus()


def test_the_stand_in_asks_only_what_nvidia_ml_py_has() -> None:
    import pynvml

    asked = [name for name in vars(FakeNvml) if name.startswith("nvml")]
    assert [name for name in asked if not callable(getattr(pynvml, name, None))] == []


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    nvml = FakeNvml()
    assert gpus_of(monkeypatch, nvml) == (Gpu("H100", 80 * GIB, "580.1", "9.0", True),) * 2
    assert not nvml.open


def test_one_refused_question_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = gpus_of(monkeypatch, FakeNvml(refuses=("nvmlDeviceGetMemoryInfo", "nvmlSystemGetDriverVersion")))
    assert gpus is not None
    assert (gpus[0].name, gpus[0].memory, gpus[0].driver) == ("H100", None, None)


def test_no_driver_is_no_gpu_but_a_failing_one_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpus_of(monkeypatch, FakeNvml(error=12)) == ()  # library not found
    assert gpus_of(monkeypatch, FakeNvml(error=9)) == ()  # driver not loaded
    assert gpus_of(monkeypatch, FakeNvml(error=999)) is None
    assert gpus_of(monkeypatch, FakeNvml(refuses=("nvmlDeviceGetCount",))) is None


@pytest.mark.parametrize(
    ("chosen", "visible"),
    [
        *(("", (False, False)), ("-1", (False, False)), ("1", (False, True)), ("0, 1", (True, True))),
        *(("GPU-1a", (False, True)), ("MIG-xyz", (None, None))),
    ],
)
def test_cuda_visible_devices(monkeypatch: pytest.MonkeyPatch, chosen: str, visible: tuple[bool | None, ...]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert tuple(gpu.visible for gpu in gpus_of(monkeypatch, FakeNvml()) or ()) == visible
