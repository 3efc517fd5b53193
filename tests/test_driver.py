import ctypes
from types import SimpleNamespace

import pytest

from ocr_onnx.errors import DeviceError
from ocr_onnx.runtime import driver
from ocr_onnx.runtime.driver import Driver, Gpu


def fake_driver(
    init: int = 0, version: int = 13_020, gpus: int = 1, capability: tuple[int, int] = (8, 6), fails: str = ""
) -> SimpleNamespace:
    """A driver's library whose function named `fails` answers 1."""

    def writes(name: str, *values: int) -> object:
        def function(pointer: object, attribute: int = 0, _device: int = 0) -> int:
            value = values[attribute - driver.CAPABILITY_MAJOR] if len(values) > 1 else values[0]
            ctypes.cast(pointer, ctypes.POINTER(ctypes.c_int)).contents.value = value  # type: ignore[arg-type]
            return int(name == fails)

        function.__name__ = name
        return function

    def name(buffer: ctypes.Array[ctypes.c_char], _length: int, device: int) -> int:
        buffer.value = f"GPU {device}".encode()
        return int(fails == "cuDeviceGetName")

    return SimpleNamespace(
        cuInit=lambda _: init,
        cuDriverGetVersion=writes("cuDriverGetVersion", version),
        cuDeviceGetCount=writes("cuDeviceGetCount", gpus),
        cuDeviceGet=writes("cuDeviceGet", 0),
        cuDeviceGetName=name,
        cuDeviceTotalMem_v2=writes("cuDeviceTotalMem_v2", 1 << 30),
        cuDeviceGetAttribute=writes("cuDeviceGetAttribute", *capability),
    )


def install(monkeypatch: pytest.MonkeyPatch, library: SimpleNamespace | OSError) -> None:
    def load(name: str) -> SimpleNamespace:
        assert name == driver.LIBRARY
        if isinstance(library, OSError):
            raise library
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)


def test_a_driver_tells_its_version_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, fake_driver(gpus=2))
    gpu = Gpu("GPU 0", (8, 6), 1 << 30)
    assert driver.ask() == Driver((13, 2), (gpu, gpu))
    assert driver.described(gpu) == "GPU 0, compute capability 8.6, 1.0 GiB"
    assert driver.require(1, 13) == gpu
    assert driver.require(0, 12) == gpu


MISSING = OSError("libcuda.so.1: cannot open shared object file: No such file or directory")


@pytest.mark.parametrize(
    ("library", "problem", "remedy"),
    [
        (MISSING, r"was not found \(libcuda.so.1: cannot open", "install NVIDIA's driver.*--gpus all"),
        (
            OSError("/lib/libcuda.so.1: file too short"),
            "can't be loaded .*too short",
            "install NVIDIA's driver",
        ),
        (SimpleNamespace(), "is not whole: .* lacks a function .*cuInit", "install NVIDIA's driver"),
        (fake_driver(init=3), "forked", "after the fork"),
        (fake_driver(init=34), "is the stub", "`stubs` out of LD_LIBRARY_PATH"),
        (fake_driver(init=100), "sees no GPU", "CUDA_VISIBLE_DEVICES"),
        (fake_driver(init=802), "not ready", "fabric manager"),
        (fake_driver(init=803), "does not fit the kernel's module", "restart the machine"),
        (fake_driver(init=804), "forward compatibility", "`compat` out of LD_LIBRARY_PATH"),
        (fake_driver(init=999), "without saying why", "nvidia-modprobe"),
        (fake_driver(init=7), "does not start .cuInit returned 7", "nvidia-smi"),
        (fake_driver(gpus=0), "shows 0 GPUs, counted from 0, so there is no number 0", "nvidia-smi"),
        (
            fake_driver(version=12_080),
            r"speaks CUDA up to 12\.8.*built for 13",
            "580 or newer, or .*gpu-cuda12",
        ),
        (fake_driver(version=11_040), r"speaks CUDA up to 11\.4", "580 or newer$"),
        (fake_driver(capability=(7, 0)), r"capability 7\.0, which CUDA 13 no longer", "gpu-cuda12"),
        (fake_driver(fails="cuDeviceGetCount"), "answers cuDeviceGetCount with error 1", "nvidia-smi"),
        (fake_driver(fails="cuDeviceGetName"), "answers cuDeviceGetName with error 1", "nvidia-smi"),
    ],
)
def test_a_driver_that_can_not_be_used_is_refused_with_the_cause(
    monkeypatch: pytest.MonkeyPatch, library: SimpleNamespace | OSError, problem: str, remedy: str
) -> None:
    install(monkeypatch, library)
    with pytest.raises(DeviceError, match=rf"^the NVIDIA driver: .*{problem}.*; .*{remedy}"):
        driver.require(0, 13)


def test_a_number_beyond_the_last_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, fake_driver())
    with pytest.raises(DeviceError, match="shows 1 GPU, counted from 0, so there is no number 1"):
        driver.require(1, 13)


def test_an_older_gpu_and_driver_do_for_an_older_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, fake_driver(version=12_000, capability=(6, 1)))
    assert driver.require(0, 12).capability == (6, 1)
    install(monkeypatch, fake_driver(version=11_080))
    with pytest.raises(DeviceError, match=r"built for 12; update the driver to 525 or newer$"):
        driver.require(0, 12)
