"""The NVIDIA driver, asked before ONNX Runtime does so loudly: its version and GPUs come out, or an error."""

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ocr_onnx.errors import DeviceError

SUBJECT = "the NVIDIA driver"
LIBRARY = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
INSTALL = "install NVIDIA's driver; a container needs `--gpus all` and the NVIDIA container toolkit"
LOOK = "look what `nvidia-smi` says"
# The driver's release that first spoke a version of CUDA; within one, every newer release will do.
RELEASES: Mapping[int, str] = {12: "525", 13: "580"}
# CUDA 13 has no code for what is older than Turing.
OLDEST_CAPABILITY: Mapping[int, tuple[int, int]] = {12: (5, 0), 13: (7, 5)}
OLDER_CUDA = "install 'ocr-onnx[gpu-cuda12]' instead"

# What cuInit answers, and what to do about it; the names are those of cuda.h (CUresult).
INIT_FAILURES: Mapping[int, tuple[str, str]] = {
    2: ("has no memory left (CUDA_ERROR_OUT_OF_MEMORY)", LOOK),
    3: (
        "was started by the process that this one was forked from (CUDA_ERROR_NOT_INITIALIZED)",
        "load the engine after the fork, or start processes by `spawn`",
    ),
    34: (
        "is the stub that CUDA's toolkit is built with (CUDA_ERROR_STUB_LIBRARY)",
        "take the folder `stubs` out of LD_LIBRARY_PATH",
    ),
    46: ("says that the GPU is taken or unavailable (CUDA_ERROR_DEVICE_UNAVAILABLE)", LOOK),
    100: ("sees no GPU (CUDA_ERROR_NO_DEVICE)", f"{LOOK}; CUDA_VISIBLE_DEVICES may hide them"),
    101: ("was told of a GPU that it has not (CUDA_ERROR_INVALID_DEVICE)", "correct CUDA_VISIBLE_DEVICES"),
    802: (
        "says that the system is not ready yet (CUDA_ERROR_SYSTEM_NOT_READY)",
        "start NVIDIA's fabric manager, which GPUs on NVSwitch need",
    ),
    803: (
        "does not fit the kernel's module, as after an update (CUDA_ERROR_SYSTEM_DRIVER_MISMATCH)",
        "restart the machine; a container must use the library of its host",
    ),
    804: (
        "is a library for forward compatibility, which this GPU can't have "
        "(CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE)",
        "take the folder `compat` out of LD_LIBRARY_PATH, or update the driver itself",
    ),
    999: (
        "fails without saying why (CUDA_ERROR_UNKNOWN)",
        "load the kernel's module (`nvidia-modprobe -u`), or restart the machine",
    ),
}

CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU: its name, compute capability (8, 6) and memory in bytes."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Driver:
    """A driver that starts: the newest CUDA that it speaks (13, 0), and the GPUs that it shows, by number."""

    cuda: tuple[int, int]
    gpus: tuple[Gpu, ...]


def ask() -> Driver:
    """Start the driver and look at its GPUs; DeviceError says why it can't be had."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        found = "can't be loaded" if str(error).startswith("/") else "was not found"
        raise DeviceError(SUBJECT, f"{found} ({error})", INSTALL) from error
    try:
        return _ask(library)
    except AttributeError as error:
        problem = f"is not whole: {LIBRARY} lacks a function ({error})"
        raise DeviceError(SUBJECT, problem, INSTALL) from error


def require(index: int, cuda_major: int) -> Gpu:
    """Return a GPU that ONNX Runtime built for a version of CUDA can use; DeviceError says why it can't."""
    driver = ask()
    if driver.cuda[0] < cuda_major:
        release = RELEASES.get(cuda_major)
        update = f"update the driver to {release} or newer" if release else "update the driver"
        older = f", or {OLDER_CUDA}" if driver.cuda[0] == 12 else ""
        problem = f"speaks CUDA up to {_dotted(driver.cuda)}, and this ONNX Runtime is built for {cuda_major}"
        raise DeviceError(SUBJECT, problem, f"{update}{older}")
    if index >= len(driver.gpus):
        count = len(driver.gpus)
        problem = (
            f"shows {count} GPU{'' if count == 1 else 's'}, counted from 0, so there is no number {index}"
        )
        raise DeviceError(SUBJECT, problem, f"{LOOK}; CUDA_VISIBLE_DEVICES may hide some")
    gpu = driver.gpus[index]
    if gpu.capability < OLDEST_CAPABILITY.get(cuda_major, (0, 0)):
        problem = (
            f"shows {gpu.name} of compute capability {_dotted(gpu.capability)}, "
            f"which CUDA {cuda_major} no longer runs on"
        )
        raise DeviceError(SUBJECT, problem, OLDER_CUDA)
    return gpu


def described(gpu: Gpu) -> str:
    """Return a GPU as one line for people."""
    memory_gib = gpu.memory_bytes / 2**30
    return f"{gpu.name}, compute capability {_dotted(gpu.capability)}, {memory_gib:.1f} GiB"


def _ask(library: Any) -> Driver:
    status = library.cuInit(0)
    if status != 0:
        problem, remedy = INIT_FAILURES.get(status, (f"does not start (cuInit returned {status})", LOOK))
        raise DeviceError(SUBJECT, problem, remedy)
    version = _integer(library.cuDriverGetVersion)
    count = _integer(library.cuDeviceGetCount)
    return Driver((version // 1000, version % 1000 // 10), tuple(_gpu(library, i) for i in range(count)))


def _gpu(library: Any, index: int) -> Gpu:
    device = _integer(library.cuDeviceGet, index)
    name = ctypes.create_string_buffer(256)
    memory = ctypes.c_size_t(0)
    _must(library.cuDeviceGetName(name, len(name), device), "cuDeviceGetName")
    _must(library.cuDeviceTotalMem_v2(ctypes.byref(memory), device), "cuDeviceTotalMem")
    major, minor = (
        _integer(library.cuDeviceGetAttribute, attribute, device)
        for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR)
    )
    return Gpu(name.value.decode(errors="replace"), (major, minor), memory.value)


def _integer(function: Any, *arguments: int) -> int:
    """Call a function of the driver that writes one number."""
    value = ctypes.c_int(0)
    _must(function(ctypes.byref(value), *arguments), getattr(function, "__name__", "a call"))
    return value.value


def _must(status: int, name: str) -> None:
    if status != 0:
        raise DeviceError(SUBJECT, f"answers {name} with error {status}", LOOK)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
